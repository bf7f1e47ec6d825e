"""What one program did, loop by loop."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from kopt.evaluate.worker.counting.arrays import Array
from kopt.evaluate.worker.counting.memory import Buffer, lines

Span = tuple[int, int]
"""First and last source line; (0, 0) is the whole program."""
Mma = tuple[str, str, int, int, int]
"""Element types of A and B, then M, N, K of one tl.dot."""
Route = tuple[str, str, str]
"""Buffer, direction (load, store, atomic), feed (pointer, descriptor)."""

PROGRAM: Span = (0, 0)

# Seconds that counting takes, by what is counted: fitted to the ladders' launches on one core, and good to a factor of
# two.
_PER_OPERATION = 23e-6
_PER_ELEMENT = 2.3e-9
_PER_ACCESS = 100e-6
_PER_SECTOR = 0.35e-6


@dataclass
class Work:
    """What happened directly inside one loop body (or outside all loops), summed over its executions."""

    executions: float = 0.0
    mma: defaultdict[Mma, float] = field(default_factory=lambda: defaultdict(float))
    operations: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Elements by class: float, special (exp, log, division, ...), convert, int, reduce, extern."""
    traffic: dict[Route, list[float]] = field(default_factory=dict)
    """[requests, bytes, sectors, lines, bytes had no mask held any back]"""

    def scale(self, factor: float) -> None:
        self.executions *= factor
        for tile in self.mma:
            self.mma[tile] *= factor
        for kind in self.operations:
            self.operations[kind] *= factor
        for amount in self.traffic.values():
            amount[:] = [value * factor for value in amount]

    def loaded(self) -> float:
        return sum(amount[1] for (_, direction, _), amount in self.traffic.items() if direction == "load")


class Tally:
    """The counts of one program; `weight` is how many executions the present one stands for."""

    def __init__(self) -> None:
        self.weight = 1.0
        self.work: dict[Span, Work] = {PROGRAM: Work(executions=1.0)}
        self.spans: defaultdict[tuple[Span, Span], float] = defaultdict(float)
        """Executions of branches and functions, with the loop they ran in: how often an instruction ran, and where."""
        self.here = self.work[PROGRAM]
        self.stack: list[Span] = []
        self.window: dict[str, dict[tuple[int, int, int], Array]] | None = None
        """When set: the distinct tiles loaded, by buffer."""
        self.window_sum: Counter[str] = Counter()
        self.lengths: dict[Span, int] = {}
        """Iterations of each outermost loop, run or not."""
        self.warnings: set[str] = set()
        self.effort = 0.0
        """Seconds that the counting takes as a rule, whatever it took: budgets are spent alike on every machine."""
        self.truncated = False
        self.probing = False
        """Only lengths are asked for: accesses need not be counted."""
        # Seen since the outermost loop iteration began; they forbid leaving iterations out.
        self.steered = 0
        self.nested = 0

    def enter(self, span: Span) -> None:
        self.stack.append(span)
        self.here = self.work.setdefault(span, Work())
        self.nested += 1

    def leave(self) -> None:
        self.stack.pop()
        self.here = self.work[self.stack[-1] if self.stack else PROGRAM]

    def span(self, first: int, last: int) -> None:
        self.spans[(first, last), self.stack[-1] if self.stack else PROGRAM] += self.weight

    def mma(self, a: str, b: str, m: int, n: int, k: int, batch: int = 1) -> None:
        self.effort += _PER_OPERATION
        self.here.mma[a, b, m, n, k] += self.weight * batch

    def operation(self, kind: str, elements: int) -> None:
        self.effort += _PER_OPERATION + _PER_ELEMENT * elements
        self.here.operations[kind] += self.weight * elements

    def access(
        self,
        buffer: Buffer | None,
        direction: str,
        feed: str,
        nbytes: int,
        most: int,
        ids: Array,
        unknown: bool = False,
    ) -> None:
        """One access, of `nbytes` of its tile's `most`; `unknown` addresses are counted, but say nothing about what
        neighbours share."""
        self.effort += _PER_ACCESS + _PER_SECTOR * ids.size
        name = "?" if buffer is None else buffer.name
        amount = self.here.traffic.setdefault((name, direction, feed), [0.0] * 5)
        weight = self.weight
        amount[0] += weight
        amount[1] += weight * nbytes
        amount[2] += weight * ids.size
        amount[3] += weight * lines(ids)
        amount[4] += weight * most
        if self.window is not None and direction == "load" and ids.size:
            self.window_sum[name] += ids.size
            tiles = self.window.setdefault(name, {})
            key = (len(tiles), -1, -1) if unknown else (int(ids[0]), int(ids[-1]), ids.size)
            tiles[key] = ids

    def warn(self, text: str) -> None:
        self.warnings.add(text)

    # Totals by which programs are compared.

    def flops(self) -> float:
        return sum(
            2.0 * m * n * k * count for work in self.work.values() for (_, _, m, n, k), count in work.mma.items()
        )

    def bytes(self) -> float:
        return sum(amount[1] for work in self.work.values() for amount in work.traffic.values())

    def elements(self) -> float:
        return sum(sum(work.operations.values()) for work in self.work.values())
