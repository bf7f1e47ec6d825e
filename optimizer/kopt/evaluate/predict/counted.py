"""What the counting interpreter found. It ran beside candidate code, so everything is checked before it is used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kopt.evaluate.hearsay import LARGEST
from kopt.records.base import Record

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=1000)]
Names = Annotated[tuple[Name, ...], Field(max_length=1000)]
Extent = Annotated[int, Field(ge=1, le=1 << 20)]
"""Of a tile: Triton's limit for a whole one."""


class Mma(Record):
    """tl.dot of one tile shape."""

    a: Name
    """Element type of A as Triton names it: fp8e4nv, bf16, ..."""
    b: Name
    m: Extent
    n: Extent
    k: Extent
    count: Amount
    """Executions per program."""

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k * self.count


class Traffic(Record):
    """Accesses to one buffer in one direction by one kind of instruction, per program."""

    buffer: Name
    direction: Literal["load", "store", "atomic"]
    feed: Literal["pointer", "descriptor"]
    requests: Amount
    bytes: Amount
    """Of the elements that the masks let through."""
    sectors: Amount
    """Distinct 32-byte sectors, summed over requests: what moves between L2 and SM."""
    lines: Amount
    """Distinct 128-byte lines, summed over requests."""
    most: Amount = 0.0
    """Bytes of whole tiles: `bytes`, had no mask and no edge held any back."""
    reuse: float = Field(default=1.0, ge=0, le=1)
    """Distinct over all sectors that neighbouring programs load at the same time: what of it can miss the L2."""

    @property
    def moved(self) -> float:
        """Bytes that move."""
        return 32.0 * self.sectors


class Loop(Record):
    """What happens directly inside one loop body, per program; lines (0, 0) are what lies outside of all loops."""

    lines: tuple[Count, Count]
    executions: Amount
    mma: tuple[Mma, ...] = Field(default=(), max_length=1000)
    operations: dict[Name, Amount] = Field(default={}, max_length=100)
    """Elements by class: float, special (exp, log, division, ...), convert, compare, select, int, reduce, extern."""
    traffic: tuple[Traffic, ...] = Field(default=(), max_length=1000)

    @property
    def whole(self) -> bool:
        return self.lines == (0, 0)


class Spread(Record):
    """How unevenly the work lies on the programs."""

    max: float = Field(default=1.0, ge=1, le=LARGEST, allow_inf_nan=False)
    """Largest over mean."""
    cv: Amount = 0.0
    """Standard deviation over mean."""


class Window(Record):
    """The neighbouring programs that `reuse` was found from."""

    programs: Count = 0
    of: Count = 0


class CountedLaunch(Record):
    """Means over the sampled programs of one launch."""

    name: Name
    grid: tuple[Count, Count, Count]
    programs: Count
    sampled: Count = 0
    loops: tuple[Loop, ...] = Field(default=(), max_length=1000)
    spans: tuple[tuple[Count, Count, Amount, Count, Count], ...] = Field(default=(), max_length=10_000)
    """Branches and functions: first line, last line, executions per program, and the lines of the loop they ran in."""
    work: Spread = Spread()
    window: Window = Window()
    complete: bool = True
    """Every iteration of every sampled program was run."""
    effort: Amount = 0.0
    """Seconds that counting it takes as a rule."""
    hurried: bool = False
    """The budget was spent before all programs that should be sampled were."""
    warnings: Names = ()
    stores: Names = ()
    """Buffers written to."""
    buffers: dict[Name, Count] = Field(default={}, max_length=1000)
    """Bytes of the storages that were touched."""

    @property
    def flops(self) -> float:
        """Of the whole launch, in tl.dot; padding included."""
        return self.programs * sum(mma.flops for loop in self.loops for mma in loop.mma)

    def moved(self, *directions: str) -> float:
        """Bytes that the whole launch moves between L2 and SMs."""
        return self.programs * sum(
            t.moved for loop in self.loops for t in loop.traffic if not directions or t.direction in directions
        )

    def place(self, line: int) -> tuple[float, int]:
        """How often a program executes a source line, and the index of the loop in which it does.

        A line is executed as often as the smallest counted region around it: a loop, a branch or a function.
        """
        around = [
            (loop.lines[1] - loop.lines[0], loop.executions, loop.lines)
            for loop in self.loops
            if not loop.whole and loop.lines[0] <= line <= loop.lines[1]
        ]
        around += [(s[1] - s[0], s[2], (s[3], s[4])) for s in self.spans if s[0] <= line <= s[1]]
        if not around:
            return 1.0, self.index((0, 0))
        size = min(around)[0]
        same = [(times, lines) for extent, times, lines in around if extent == size]
        return sum(times for times, _ in same), self.index(max(same)[1])

    def index(self, lines: tuple[int, int]) -> int:
        return next((i for i, loop in enumerate(self.loops) if loop.lines == lines), 0)

    def facts(self) -> dict[str, object]:
        """The few numbers worth keeping of a launch, for the verdict."""
        loads = {
            t.buffer: {"bytes": self.programs * t.moved, "reuse": round(t.reuse, 4)}
            for loop in self.loops
            for t in loop.traffic
            if t.direction == "load" and t.moved > 4096
        }
        return {
            "kernel": self.name,
            "programs": self.programs,
            "flops": self.flops,
            "l2_bytes": self.moved(),
            "written": self.moved("store", "atomic"),
            "loads": loads,
            "imbalance": round(self.work.max, 3),
        }
