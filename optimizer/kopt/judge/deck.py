"""The judge's cards: inputs drawn in private, dealt in place when the clock runs, and outputs that start as garbage.

Operands are drawn in groups that can be combined freely (the task's GROUPS hook), so that n variants of g groups make
n**g different problems: no call of a batch repeats another, and nothing that a kernel remembers is ever asked again.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from kopt.errors import HarnessError
from kopt.judge.backends import Tensor
from kopt.judge.layout import Layout, stacked, views
from kopt.records import Shape, Task

_ROOM = 4 << 30
"""Bytes in which expected slices are computed: of operands that calls share, in float64."""

_CALLS = 128
"""Whose slices a task computes at once."""

Call = tuple[int, ...]
"""For every tensor argument of the entry the index of its copy: a variant of an input, a slot of an output."""


def groups(task: Task, hooks: ModuleType) -> tuple[tuple[str, ...], ...]:
    """Inputs that belong together. Without the hook all of them do."""
    every = tuple(t.name for t in task.inputs)
    found = tuple(tuple(g) for g in getattr(hooks, "GROUPS", (every,)))
    if sorted(name for g in found for name in g) != sorted(every):
        raise HarnessError(f"task {task.name}: GROUPS in task.py must name every input once: {', '.join(every)}")
    return found


def variants_for(calls: int, group_count: int) -> int:
    """The fewest variants that give so many different problems."""
    n = 1
    while n**group_count < calls:
        n += 1
    return n


class Deck:
    """Inputs and outputs of one shape in one arena."""

    def __init__(self, task: Task, hooks: ModuleType, shape: Shape, layout: Layout, arena: Tensor, device: str) -> None:
        import torch

        self.task, self.shape, self.layout = task, shape, layout
        self._hooks, self._device, self._torch = hooks, device, torch
        self._shared = arena[: layout.input_bytes]
        self._private = torch.empty_like(self._shared)
        self._variants = {block.name: views(self._private, block) for block in layout.inputs}
        self.outputs = {block.name: stacked(arena, block) for block in layout.outputs}
        self._raw = arena[layout.input_bytes : layout.total_bytes]
        self._groups = groups(task, hooks)
        self.variants, self.slots = layout.inputs[0].count, layout.outputs[0].count
        self._random = random.Random(secrets.randbits(128))
        # With a single group nothing is shared; the `slices` hook has its own way.
        self._vmaps = len(self._groups) > 1 and not hasattr(hooks, "slices")
        self._drawn = False
        self.fresh = True
        """Whether nothing was revealed yet: what lies there is of another shape, and no input of this one."""

    def draw(self, family: str, *, alike: bool = False) -> None:
        """New inputs from secret seeds, all variants `alike` or each its own. The runner sees nothing of them before
        `reveal`."""
        self._drawn = True
        made: dict[str, Tensor] = {}
        for v in range(self.variants):
            if not (made and alike):
                made.clear()  # of gigabytes, maybe, of which one set at a time is enough
                made = self._hooks.make_inputs(dict(self.shape.dims), family, secrets.randbits(62), self._device)
            for name, copies in self._variants.items():
                tensor = made[name]
                if tensor.dtype != copies[v].dtype or tensor.shape != copies[v].shape:
                    raise HarnessError(
                        f"task {self.task.name}: make_inputs gave {name} as {tensor.dtype} {list(tensor.shape)}"
                    )
                copies[v].copy_(tensor)

    def garble(self) -> None:
        """Outputs start as what could be mistaken for a result, differently every time and rarely as NaN.

        A kernel that looks whether its output is still poisoned finds nothing to go by.
        """
        style = self._random.choice(("noise", "noise", "negated", "bytes", "nan"))
        for block in self.layout.outputs:
            out = self.outputs[block.name]
            if style == "bytes" or not out.dtype.is_floating_point:
                start = block.offset - self.layout.input_bytes
                self._raw[start : start + block.count * block.stride].random_(0, 256)
            elif style == "nan":
                out.fill_(float("nan"))
            elif style == "negated" and bool(out[0].isfinite().all()) and bool(out[0].float().any()):
                out.neg_()
            else:
                wide = out.element_size() > 1
                noise = self._torch.randn(
                    out.shape[1:], device=self._device, dtype=out.dtype if wide else self._torch.float32
                )
                out.copy_(noise.mul_(10.0 ** self._random.uniform(-2, 2)).to(out.dtype))

    def reveal(self) -> None:
        """All inputs at once, at the addresses the runner has had from the start."""
        self._shared.copy_(self._private)
        self.fresh = not self._drawn  # a null batch reveals whatever there is

    def touched(self) -> str:
        """Name of an input that is not what was revealed, or ""."""
        # In words: a comparison makes a byte of every element.
        if self._torch.equal(*(side.view(self._torch.int64) for side in (self._shared, self._private))):
            return ""
        for block in self.layout.inputs:
            part = slice(block.offset, block.offset + block.count * block.stride)
            if not self._torch.equal(self._shared[part], self._private[part]):
                return block.name
        return ""

    def deal(self, count: int, variants: int | None = None) -> list[Call]:
        """So many calls, each a problem of its own with a slot of its own, from all variants or from so many.

        Successive calls use the variants in turn, so that a variant comes back only after all others; which is which is
        drawn anew.
        """
        n, g = variants or self.variants, len(self._groups)
        labels = [self._random.sample(range(self.variants), n) for _ in range(g)]
        slots = self._random.sample(range(count), count)
        calls = []
        for i in range(count):
            of = {}
            for k, names in enumerate(self._groups):
                of.update(dict.fromkeys(names, labels[k][(i // n**k + i * (k > 0)) % n]))
            calls.append(tuple(of.get(t.name, slots[i]) for t in self.task.tensors))
        return calls

    def diagonal(self, count: int) -> list[Call]:
        """At most `variants` calls, no two of which share an operand."""
        count = min(count, self.variants)
        labels = self._random.sample(range(self.variants), count)
        slots = self._random.sample(range(count), count)
        of = [{name: labels[i] for names in self._groups for name in names} for i in range(count)]
        return [tuple(of[i].get(t.name, slots[i]) for t in self.task.tensors) for i in range(count)]

    def inputs(self, call: Sequence[int]) -> dict[str, Tensor]:
        """The private operands of a call."""
        at = dict(zip((t.name for t in self.task.tensors), call, strict=True))
        return {name: copies[at[name]] for name, copies in self._variants.items()}

    def slot(self, call: Sequence[int]) -> int:
        """Where a call writes its outputs."""
        first = next(i for i, t in enumerate(self.task.tensors) if t.role == "output")
        return call[first]

    def expected(
        self, inputs: Mapping[str, Tensor], dims: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Reference and the bound on each element's error, float64, by output.

        Without a `bound` hook an element may be wrong by the tolerated relative RMS error of itself plus eight times
        that of the output's RMS, as on the CPU (evaluate/oracle.py).
        """
        want: dict[str, Tensor] = self._hooks.reference(dict(inputs), dict(dims))
        want = {name: value.double() for name, value in want.items()}
        hook: Any = getattr(self._hooks, "bound", None)
        if hook is not None:
            bound: dict[str, Tensor] = hook(dict(inputs), want, dict(dims))
            return want, bound
        limit = self.task.tolerance.relative_rms
        return want, {name: limit * (v.abs() + 8 * v.square().mean().sqrt()) for name, v in want.items()}

    def expected_slices(
        self, inputs: Mapping[str, Tensor], dim: str, index: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `expected`, of the given indices along a separable dimension: what they need is all that is computed.

        Inputs are cut alike, unless the task knows better how its inputs hang together (the `slices` hook).
        """
        hook: Any = getattr(self._hooks, "slices", None)
        if hook is not None:
            want, bound = hook(dict(inputs), dict(self.shape.dims), dim, index)
            return {name: value.double() for name, value in want.items()}, bound
        cut = dict(inputs)
        for spec in self.task.inputs:
            if dim in spec.dims:
                cut[spec.name] = pick(cut[spec.name], spec.dims.index(dim), index)
        return self.expected(cut, {**self.shape.dims, dim: len(index)})

    def expected_slices_of(
        self, calls: Sequence[Call], dim: str, index: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `expected_slices`, of many calls: stacked, [calls, ...].

        Calls that share the operands which are not cut are computed at once: preparing those is most of the work, and
        a batch of n**2 calls has only n of each. Hooks that torch.func.vmap cannot take are asked for each call apart.
        """
        many: Any = getattr(self._hooks, "slices_of_calls", None)
        if many is not None:
            # In the order of what is large: a hook may answer at once what calls ask of the same cache.
            large = max(self._groups, key=lambda group: sum(self._variants[name][0].nbytes for name in group))
            at = [t.name for t in self.task.tensors].index(large[0])
            order = sorted(range(len(calls)), key=lambda number: calls[number][at])
            inputs, dims = [dict(self.inputs(calls[number])) for number in order], dict(self.shape.dims)
            found = [many(inputs[i : i + _CALLS], dims, dim, index) for i in range(0, len(calls), _CALLS)]
            back = self._torch.tensor(order, device=index.device).argsort()
            want, bound = (
                {name: self._torch.cat([f[k][name] for f in found])[back] for name in found[0][k]} for k in (0, 1)
            )
            return {name: value.double() for name, value in want.items()}, bound
        if self._vmaps:
            try:
                return self._at_once(calls, dim, index)
            except Exception:
                self._vmaps = False  # if the hooks themselves are at fault they say so now
        answers = [self.expected_slices(self.inputs(call), dim, index) for call in calls]
        want, bound = (
            {name: self._torch.stack([a[k][name] for a in answers]) for name in answers[0][k]} for k in (0, 1)
        )
        return want, bound

    def _at_once(self, calls: Sequence[Call], dim: str, index: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        at = {t.name: i for i, t in enumerate(self.task.tensors)}
        axes = {spec.name: spec.dims.index(dim) for spec in self.task.inputs if dim in spec.dims}
        varied = next(group for group in self._groups if axes.keys() & set(group))
        shared = [name for group in self._groups if group is not varied for name in group]
        dims = {**self.shape.dims, dim: len(index)}

        def cut(name: str, variant: int) -> Tensor:
            tensor = self._variants[name][variant]
            return pick(tensor, axes[name], index) if name in axes else tensor

        cuts = {(name, v): cut(name, v) for name in varied for v in {call[at[name]] for call in calls}}
        together: dict[tuple[int, ...], list[int]] = {}
        for number, call in enumerate(calls):
            together.setdefault(tuple(call[at[name]] for name in shared), []).append(number)

        def one(own: dict[str, Tensor], same: dict[str, Tensor]) -> Any:
            return self.expected({t.name: own.get(t.name, same.get(t.name)) for t in self.task.inputs}, dims)

        vmap = self._torch.func.vmap
        several = vmap(vmap(one, in_dims=(0, None)))
        # As many groups of calls at once as there is room for: asking costs a millisecond, however little is asked.
        rows = list(together.items())
        width = max(len(numbers) for _, numbers in rows)
        nbytes = 8 * sum(cut(name, v).numel() for name, v in zip(shared, rows[0][0], strict=True))
        step = max(1, _ROOM // max(1, nbytes))
        found: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            same = {name: _stack([cut(name, key[i]) for key, _ in part]) for i, name in enumerate(shared)}
            # Filled up with calls that are there already, so that all groups are of a size.
            of = [numbers[i % len(numbers)] for _, numbers in part for i in range(width)]
            own = {name: _stack([cuts[name, calls[n][at[name]]] for n in of]) for name in varied}
            own = {name: t.view(len(part), width, *t.shape[1:]) for name, t in own.items()}
            found.append(several(own, same))
        places = {n: g * width + i for g, (_, numbers) in enumerate(rows) for i, n in enumerate(numbers)}
        order = self._torch.tensor([places[n] for n in range(len(calls))], device=index.device)
        want, bound = (
            {name: self._torch.cat([f[k][name] for f in found]).flatten(0, 1)[order] for name in found[0][k]}
            for k in (0, 1)
        )
        return want, bound

    @property
    def knows_slices(self) -> bool:
        """Whether the task computes, or compares, given indices of its outputs by itself."""
        return hasattr(self._hooks, "slices") or self.own_check_of_slices is not None

    @property
    def own_slices(self) -> bool:
        """Whether the task computes given indices of its outputs by itself, and has no comparison of its own."""
        return hasattr(self._hooks, "slices") and self.own_check is None

    @property
    def own_check(self) -> Callable[..., Iterable[Mapping[str, Any]]] | None:
        """The task's own comparison, for whole outputs, if it has one."""
        return getattr(self._hooks, "check", None)

    @property
    def own_check_of_slices(self) -> Callable[..., Iterable[Mapping[str, Any]]] | None:
        """The same for the outputs' given indices along a dimension."""
        return getattr(self._hooks, "check_slices", None)

    @property
    def separable(self) -> tuple[str, ...]:
        """Dimensions along which outputs do not depend on each other: a slice of the inputs gives that slice of them.

        A task with a comparison of its own for whole outputs alone is only ever looked at whole.
        """
        if self.own_check and not self.own_check_of_slices:
            return ()
        return tuple(getattr(self._hooks, "SEPARABLE", ()))


def plain(tensor: Tensor) -> Tensor:
    """The same memory as a type that everything works with: not all of torch knows every eight-bit type everywhere."""
    import torch

    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def pick(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    return plain(tensor).index_select(axis, index).view(tensor.dtype)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack([plain(t) for t in tensors]).view(tensors[0].dtype)
