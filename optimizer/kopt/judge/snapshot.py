"""What is looked at in a batch's outputs: secret rows and columns of every call, one of them whole.

The bytes are gathered into private memory while the clock runs, and only they are compared: whatever a kernel writes
later is too late.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kopt.evaluate.compare import Limits, compare, relative_rms
from kopt.judge.backends import Tensor
from kopt.judge.deck import Call, Deck, pick
from kopt.records import Finding, Status

PROBES = 4
"""Secret indices along each separable dimension."""


@dataclass
class Snapshot:
    """One batch's secrets: which indices, which whole call; and, after `take`, what was found there."""

    deck: Deck
    probes: dict[str, Tensor] = field(default_factory=dict)
    whole: int = 0
    """Slot that is kept whole."""
    found: list[tuple[str, str, Tensor]] = field(default_factory=list)
    """(output, dimension or "", elements): [slots, ...] for a dimension, one output for ""."""

    @classmethod
    def draw(cls, deck: Deck, calls: int) -> Snapshot:
        import torch

        rng = random.Random(secrets.randbits(128))
        probes = {}
        for dim in deck.separable:
            size = deck.shape.dims[dim]
            picked = rng.sample(range(size), min(PROBES, size))
            probes[dim] = torch.tensor(picked, device=next(iter(deck.outputs.values())).device)
        return cls(deck, probes, rng.randrange(max(1, calls)))

    def take(self) -> Snapshot:
        """Gather. Queued on the device: the clock that stops after it covers it."""
        self.found = []
        for spec in self.deck.task.outputs:
            out = self.deck.outputs[spec.name]
            for axis, dim in enumerate(spec.dims):
                if dim in self.probes:
                    self.found.append((spec.name, str(dim), pick(out, axis + 1, self.probes[str(dim)])))
            # Without a separable dimension every call is kept whole: there is no other way to check it.
            self.found.append((spec.name, "", (out if not self.probes else out[self.whole]).clone()))
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

    def error(self, calls: Sequence[Call]) -> float:
        """Relative RMS error of the call that was kept whole, the largest over its outputs."""
        kept = next(call for call in calls if not self.probes or self.deck.slot(call) == self.whole)
        want, _ = self.deck.expected(self.deck.inputs(kept), self.deck.shape.dims)
        slot = self.deck.slot(kept)
        found = ((name, got if self.probes else got[slot]) for name, of, got in self.found if not of)
        return max(relative_rms(got, want[name]) for name, got in found)

    def verify(self, calls: Sequence[Call], family: str) -> Finding | None:
        """A disagreement with the reference, or None."""
        for dim, picked in self.probes.items():
            if finding := self._slices(dim, picked, calls, family):
                return finding
        for number, call in enumerate(calls, 1):
            slot = self.deck.slot(call)
            looked_at = not self.probes or slot == self.whole
            if looked_at and (finding := self._whole(slot, self.deck.inputs(call), family)):
                return _in_call(finding, number, len(calls))
        return None

    def _slices(self, dim: str, picked: Tensor, calls: Sequence[Call], family: str) -> Finding | None:
        """The slices of all calls at once: comparing them one by one takes longer than the batch did."""
        import torch

        answers = [self.deck.expected_slices(self.deck.inputs(call), dim, picked) for call in calls]
        slots = torch.tensor([self.deck.slot(call) for call in calls], device=picked.device)
        for name, of, found in self.found:
            if of != dim:
                continue
            got = found[slots]
            want, bound = (torch.stack([answer[k][name] for answer in answers]) for k in (0, 1))
            if self._compare(name, got, want, bound, family, part=True):
                # Which call, in its own indices.
                for number in range(len(calls)):
                    finding = self._compare(name, got[number], want[number], bound[number], family, part=True)
                    if finding:
                        place = f"{finding.place}, of the slices {dim} = {picked.tolist()}"
                        return _in_call(finding.model_copy(update={"place": place}), number + 1, len(calls))
        return None

    def _whole(self, slot: int, inputs: Mapping[str, Tensor], family: str) -> Finding | None:
        want, bound = self.deck.expected(inputs, self.deck.shape.dims)
        found = {name: got if self.probes else got[slot] for name, of, got in self.found if not of}
        if self.deck.own_check is not None:
            for item in self.deck.own_check(dict(inputs), found, want, dict(self.deck.shape.dims), family):
                filled = {"rule": "numerics.check", "status": Status.WRONG, "shape": self.deck.shape.name, **item}
                return Finding.model_validate(filled)
            return None
        for name, got in found.items():
            finding = self._compare(name, got, want[name], bound.get(name), family)
            if finding is not None:
                return finding
        return None

    def _compare(
        self, name: str, got: Tensor, want: Tensor, bound: Tensor | None, family: str, *, part: bool = False
    ) -> Finding | None:
        """`part` of an output: relative RMS error is limited over whole ones only, since a few rows may all cancel."""
        tolerance = self.deck.task.tolerance
        limit = float("inf") if part else tolerance.relative_rms
        limits = Limits(limit, bound, family in tolerance.exact_inputs)
        return compare(name, got, want, limits, shape=self.deck.shape.name, family=family).finding


def _in_call(finding: Finding, number: int, count: int) -> Finding:
    return finding.model_copy(update={"message": f"{finding.message} (call {number} of {count})"})


def _bits(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(torch.uint8)
