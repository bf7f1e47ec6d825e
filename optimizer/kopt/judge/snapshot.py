"""What is looked at in a batch's outputs: secret rows and columns of every call, and perhaps one of them whole.

The bytes are gathered into private memory while the clock runs, and only they are compared: whatever a kernel writes
later is too late.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from kopt.evaluate.compare import Comparison, Limits, compare
from kopt.judge.backends import Tensor
from kopt.judge.deck import Call, Deck, pick, plain
from kopt.records import Finding, Status

PROBES = 4
"""Secret indices along each separable dimension."""
ROWS = 1024
"""Secret indices that stand for a whole output, where it has more elements than LARGE and the task computes given ones
by itself."""
LARGE = {"whole": 1 << 26, "sample": 1 << 24}
"""By how closely one looks. Of 256k tokens of attention the whole reference takes a minute and more memory than a
device has; of the 4k that are a chunk, seconds in which nothing is measured."""

SMALL = 1 << 22
"""Elements of an output up to which all calls are compared whole where nothing is timed: that is less work than slices
are, which cost a millisecond or two however little they hold."""

Look = Literal["every", "whole", "sample", "slices", "slice"]
"""How closely: every call whole; the secret slices of every call and one call whole; the same, but ROWS of that call
where whole ones are large; the slices; those along one dimension, drawn anew. Of a batch that is timed nobody outside
the judge learns which it will be, and what is gathered is always the same."""


@dataclass
class Snapshot:
    """One batch's secrets: which indices, which whole call; and, after `take`, what was found there."""

    deck: Deck
    probes: dict[str, Tensor] = field(default_factory=dict)
    whole: int = 0
    """Slot that is kept whole."""
    found: list[tuple[str, str, Tensor]] = field(init=False)
    """(output, dimension or "", elements): [slots, ...] for a dimension, one output for "". Filled by `take`."""
    rms: float | None = None
    """Relative RMS error of the call that was compared whole, the largest over its outputs."""
    slice_rms: defaultdict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    """By output: that of all calls' slices along a dimension together, and how many slices those are."""

    @classmethod
    def draw(cls, deck: Deck, calls: int, *, every: bool = False) -> Snapshot:
        import torch

        rng = random.Random(secrets.randbits(128))
        probes = {}
        for dim in () if every else deck.separable:
            size = deck.shape.dims[dim]
            picked = rng.sample(range(size), min(PROBES, size))
            probes[dim] = torch.tensor(picked, device=next(iter(deck.outputs.values())).device)
        return cls(deck, probes, rng.randrange(max(1, calls)))

    def __post_init__(self) -> None:
        import torch

        self.found = []
        self._steps: list[Callable[[], object]] = []
        for spec in self.deck.task.outputs:
            out = self.deck.outputs[spec.name]
            for axis, dim in enumerate(spec.dims):
                if dim in self.probes:
                    probes = self.probes[str(dim)]
                    size = list(out.shape)
                    size[axis + 1] = len(probes)
                    room = torch.empty(size, dtype=out.dtype, device=out.device)
                    self.found.append((spec.name, str(dim), room))
                    self._steps.append(partial(torch.index_select, plain(out), axis + 1, probes, out=plain(room)))
            # Without a separable dimension, too, every call is kept whole: there is no other way to check it.
            kept = out if not self.probes else out[self.whole]
            room = torch.empty_like(kept)
            self.found.append((spec.name, "", room))
            self._steps.append(partial(room.copy_, kept))

    def take(self) -> Snapshot:
        """Gather. Queued on the device: the clock that stops after it covers it.

        Room was made before: an allocator in a timed window costs now a tenth of a millisecond, now ten.
        """
        for step in self._steps:
            step()
        return self

    def same(self, other: Snapshot, calls: int | None = None) -> bool:
        """Bit for bit; with `calls`, only what a batch of so many has written."""
        import torch

        for (_, of, mine), (_, _, others) in zip(self.found, other.found, strict=True):
            # One output kept whole is that of a call; everything else has all slots, of which a batch fills the first.
            part = slice(calls if of or not self.probes else None)
            if not torch.equal(_bits(mine[part]), _bits(others[part])):
                return False
        return True

    def twin(self) -> Snapshot:
        """For the same places, with nothing taken yet."""
        return Snapshot(self.deck, self.probes, self.whole)

    def again(self) -> Snapshot:
        """The same places, as they are now."""
        return self.twin().take()

    def verify(self, calls: Sequence[Call], family: str, look: Look = "whole") -> Finding | None:
        """A disagreement with the reference, or None."""
        dims = list(self.probes)
        for dim in [secrets.choice(dims)] if look == "slice" and dims else dims:
            if finding := self._slices(dim, self.probes[dim], calls, family):
                return finding
        if look not in LARGE and self.probes:
            return None
        large = LARGE.get(look, LARGE["whole"])
        for number, call in enumerate(calls, 1):
            slot = self.deck.slot(call)
            looked_at = not self.probes or slot == self.whole
            if looked_at and (finding := self._whole(slot, self.deck.inputs(call), family, large)):
                return _in_call(finding, number, len(calls))
        return None

    def _slices(self, dim: str, picked: Tensor, calls: Sequence[Call], family: str) -> Finding | None:
        """The slices of all calls at once: comparing them one by one takes longer than the batch did."""
        import torch

        if self.deck.own_check_of_slices is not None:
            return self._own_slices(dim, picked, calls, family)
        answers = self.deck.expected_slices_of(calls, dim, picked)
        slots = torch.tensor([self.deck.slot(call) for call in calls], device=picked.device)
        for name, of, found in self.found:
            if of != dim:
                continue
            got = found[slots]
            want, bound = (answer[name] for answer in answers)
            together = self._compared(name, got, want, bound, family, part=True)
            self.slice_rms[name].append((together.relative_rms, len(calls) * len(picked)))
            if together.finding:
                # Which call, in its own indices.
                for number in range(len(calls)):
                    row = (got[number], want[number], bound[number])
                    if finding := self._compared(name, *row, family, part=True).finding:
                        place = f"{finding.place}, of the slices {dim} = {picked.tolist()}"
                        return _in_call(finding.model_copy(update={"place": place}), number + 1, len(calls))
        return None

    def _own_slices(self, dim: str, picked: Tensor, calls: Sequence[Call], family: str) -> Finding | None:
        check, dims = self.deck.own_check_of_slices, dict(self.deck.shape.dims)
        assert check is not None
        for number, call in enumerate(calls, 1):
            slot = self.deck.slot(call)
            got = {name: found[slot] for name, of, found in self.found if of == dim}
            if finding := self._first(check(dict(self.deck.inputs(call)), got, dims, family, dim, picked)):
                return _in_call(finding, number, len(calls))
        return None

    def _first(self, found: Iterable[Mapping[str, Any]]) -> Finding | None:
        """Of what the task's own comparison has to say."""
        for item in found:
            filled = {"rule": "numerics.check", "status": Status.WRONG, "shape": self.deck.shape.name, **item}
            return Finding.model_validate(filled)
        return None

    def _whole(self, slot: int, inputs: Mapping[str, Tensor], family: str, large: int) -> Finding | None:
        found = {name: got if self.probes else got[slot] for name, of, got in self.found if not of}
        if self.probes and self.deck.own_slices and sum(got.numel() for got in found.values()) > large:
            want, bound, found = self._sampled(inputs, found)
        else:
            want, bound = self.deck.expected(inputs, self.deck.shape.dims)
        if self.deck.own_check is not None:
            return self._first(self.deck.own_check(dict(inputs), found, want, dict(self.deck.shape.dims), family))
        for name, got in found.items():
            compared = self._compared(name, got, want[name], bound.get(name), family)
            if compared.finding is not None:
                return compared.finding
            self.rms = max(self.rms or 0.0, compared.relative_rms)
        return None

    def _sampled(
        self, inputs: Mapping[str, Tensor], whole: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Expected values, bounds and what was found of a call at secret indices of one dimension."""
        import torch

        dim = secrets.choice(list(self.probes))
        size = self.deck.shape.dims[dim]
        picked = sorted(random.Random(secrets.randbits(128)).sample(range(size), min(ROWS, size)))
        index = torch.tensor(picked, device=self.probes[dim].device)
        want, bound = self.deck.expected_slices(inputs, dim, index)
        axes = {spec.name: spec.dims.index(dim) for spec in self.deck.task.outputs if dim in spec.dims}
        return want, bound, {name: pick(whole[name], axis, index) for name, axis in axes.items()}

    def _compared(
        self, name: str, got: Tensor, want: Tensor, bound: Tensor | None, family: str, *, part: bool = False
    ) -> Comparison:
        """`part` of an output: relative RMS error is limited over whole ones only, since a few rows may all cancel."""
        tolerance = self.deck.task.tolerance
        limit = float("inf") if part else tolerance.relative_rms
        limits = Limits(limit, bound, family in tolerance.exact_inputs)
        return compare(name, got, want, limits, shape=self.deck.shape.name, family=family)


def _in_call(finding: Finding, number: int, count: int) -> Finding:
    return finding.model_copy(update={"message": f"{finding.message} (call {number} of {count})"})


def _bits(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(torch.uint8)
