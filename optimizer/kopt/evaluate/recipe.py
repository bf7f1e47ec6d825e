"""What a call launches, as a recipe: cubins, grids and arguments that refer to tensors, not to addresses.

A process that never sees the candidate can follow it on other memory (`kopt.judge.replay`): its time has no host code
in it, and whatever the call does besides is missing from its result. It is made from a trace whose arguments come from
untrusted hands, so that a recipe may well be wrong; who follows it checks what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from kopt.evaluate.provenance import FREE
from kopt.records.base import Record

if TYPE_CHECKING:
    from kopt.evaluate.compilation import Compiled

READS = frozenset(("_local_scalar_dense", "is_nonzero", "equal", "item"))
"""ATen operations by which the host learns what a tensor holds."""
MOST_STEPS = 64
_MOST_WORKSPACE = 16 << 30
"""Bytes."""


class Box(Record):
    """How a TMA descriptor is encoded, as the compiler says."""

    block: tuple[int, ...]
    swizzle: int
    elem_size: int
    elem_type: int
    fp4_padded: bool = False


class Argument(Record):
    """One parameter of a kernel. Places in memory are a buffer and an offset in bytes."""

    kind: Literal["pointer", "scalar", "descriptor", "constexpr"]
    type: str
    """As Triton's signature spells it."""
    buffer: int | None = None
    """A tensor argument of the entry, by its number; from their count on, a workspace. None for a null pointer."""
    offset: int = 0
    dtype: str = ""
    value: bool | int | float | str | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    """In elements."""
    block: tuple[int, ...] = ()
    nan: bool = False
    """Whether elements out of bounds read as NaN, else as zero."""
    tf32: bool = False
    box: Box | None = None


class Step(Record):
    """A launch, or memory set to one value."""

    name: str
    cubin: str = ""
    """SHA-256 of the image; "" for a fill."""
    entry: str = ""
    """The kernel's symbol in the image."""
    grid: tuple[int, int, int] = (1, 1, 1)
    warps: int = 1
    ctas: int = 1
    shared: int = 0
    cooperative: bool = False
    dependent: bool = False
    """Programmatic dependent launch."""
    scratch: int = 0
    """Bytes of scratch memory a block."""
    matrix: bool = False
    """Whether its SASS has matrix instructions."""
    arguments: tuple[Argument, ...] = ()
    extent: int = 0
    """Elements that a fill sets."""


class Recipe(Record):
    """One call at one shape. With a `reason` there are no steps: it cannot be replayed, and this is why."""

    shape: str
    steps: tuple[Step, ...] = ()
    workspaces: tuple[int, ...] = ()
    """Bytes of each buffer beside the tensors."""
    reason: str = ""

    @property
    def cubins(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.cubin for step in self.steps if step.cubin))


class _Unreplayable(Exception):
    pass


def recipe(
    shape: str,
    seen: Mapping[str, Any],
    compiled: Mapping[str, Compiled],
    notes: Sequence[str] = (),
) -> Recipe:
    """From what `traced.checked` gives of a shape, with the compilations of its launches by id."""
    try:
        if any("the host reads values" in note for note in notes):
            _no("host logic depends on data: the host reads what tensors hold")
        return _Reader(seen["tensors"], compiled).read(shape, seen["steady"])
    except _Unreplayable as why:
        return Recipe(shape=shape, reason=str(why))


class _Reader:
    def __init__(self, tensors: Sequence[tuple[int, int]], compiled: Mapping[str, Compiled]) -> None:
        self._tensors, self._compiled = tensors, compiled
        self._places: dict[int, int] = {}
        """Number of a workspace by where its memory began."""
        self._sizes: list[int] = []

    def read(self, shape: str, events: Sequence[Mapping[str, Any]]) -> Recipe:
        steps = [step for event in events for step in self._step(event)]
        if not steps:
            _no("nothing is launched")
        if len(steps) > MOST_STEPS:
            _no(f"{len(steps)} launches a call, above {MOST_STEPS}")
        if sum(self._sizes) > _MOST_WORKSPACE:
            _no(f"{sum(self._sizes) >> 30} GiB of workspaces")
        return Recipe(shape=shape, steps=tuple(steps), workspaces=tuple(self._sizes))

    def _step(self, event: Mapping[str, Any]) -> Iterator[Step]:
        if "aten" in event:
            name = event["aten"]
            if name in READS:
                _no("host logic depends on data: the host reads what tensors hold")
            if event["fill"]:
                fill = event["fill"]
                buffer, offset = self._place(fill)
                target = Argument(
                    kind="pointer", type="fill", buffer=buffer, offset=offset, dtype=fill["dtype"], value=fill["value"]
                )
                yield Step(name=f"aten::{name}", arguments=(target,), extent=fill["extent"])
            elif not FREE.match(name):
                _no(f"the host calls aten::{name}, which is no launch of the file's own")
            return
        x, y, z = event["grid"]
        if min(x, y, z) <= 0:
            return
        compiled = self._compiled.get(event["launch"])
        if compiled is None or compiled.error:
            _no(f"{event['name']} did not compile")
        meta = compiled.metadata
        if meta.get("profile_scratch_size"):
            _no(f"{event['name']} is instrumented")
        boxes = iter(meta.get("tensordesc_meta") or ())
        yield Step(
            name=event["name"],
            cubin=compiled.cubin,
            entry=str(meta["name"]),
            grid=(x, y, z),
            warps=int(meta["num_warps"]),
            ctas=int(meta.get("num_ctas") or 1),
            shared=int(meta.get("shared") or 0),
            cooperative=bool(meta.get("launch_cooperative_grid")),
            dependent=bool(meta.get("launch_pdl")),
            scratch=int(meta.get("global_scratch_size") or 0),
            matrix=bool(compiled.facts.get("mma")),
            arguments=tuple(self._arguments(event["name"], event["arguments"], boxes)),
        )

    def _arguments(
        self, name: str, arguments: Sequence[Mapping[str, Any]], boxes: Iterator[Mapping[str, Any] | None]
    ) -> Iterator[Argument]:
        for argument in arguments:
            kind = argument["type"]
            if kind == "unknown":
                _no(f"{name} takes {argument['unknown']}")
            elif kind == "tuple":
                yield from self._arguments(name, argument["items"], boxes)
            elif kind == "constexpr":
                yield Argument(kind="constexpr", type=kind if argument["plain"] else "repr", value=argument["value"])
            elif kind.startswith("tensordesc"):
                yield self._descriptor(name, argument, next(boxes, None))
            elif kind.startswith("*"):
                buffer, offset = self._place(argument)
                yield Argument(kind="pointer", type=kind, buffer=buffer, offset=offset, dtype=argument["dtype"])
            else:
                value = argument["value"]
                if isinstance(value, int) and self._known(value):
                    _no(f"{name} takes an address as a number")
                yield Argument(kind="scalar", type=kind, value=value)

    def _descriptor(self, name: str, argument: Mapping[str, Any], box: Mapping[str, Any] | None) -> Argument:
        if box is None or not {"swizzle", "elem_size", "elem_type"} <= set(box):
            _no(f"{name} takes a descriptor that the compiler did not lower to TMA")
        buffer, offset = self._place(argument)
        return Argument(
            kind="descriptor",
            type=argument["type"],
            buffer=buffer,
            offset=offset,
            dtype=argument["dtype"],
            shape=tuple(argument["shape"]),
            strides=tuple(argument["strides"]),
            block=tuple(argument["block"]),
            nan=argument["nan"],
            tf32=argument["tf32"],
            box=Box(
                block=tuple(box["block_size"]),
                swizzle=int(box["swizzle"]),
                elem_size=int(box["elem_size"]),
                elem_type=int(box["elem_type"]),
                fp4_padded=bool(box.get("fp4_padded")),
            ),
        )

    def _place(self, memory: Mapping[str, Any]) -> tuple[int | None, int]:
        address = memory["address"]
        if not address:
            return None, 0
        for number, (start, nbytes) in enumerate(self._tensors):
            if start <= address < start + max(1, nbytes):
                return number, address - start
        # What is freed and allocated again at the same place within a call shares memory here as it did there.
        number = self._places.setdefault(memory["storage"], len(self._places))
        if number == len(self._sizes):
            self._sizes.append(0)
        self._sizes[number] = max(self._sizes[number], memory["nbytes"])
        offset = address - memory["storage"]
        if not 0 <= offset <= memory["nbytes"]:
            _no("a tensor lies outside its own memory")
        return len(self._tensors) + number, offset

    def _known(self, value: int) -> bool:
        return value > 1 << 32 and any(start <= value < start + nbytes for start, nbytes in self._spans())

    def _spans(self) -> Iterator[tuple[int, int]]:
        yield from self._tensors
        yield from ((start, self._sizes[number]) for start, number in self._places.items())


def _no(why: str) -> NoReturn:
    raise _Unreplayable(why)
