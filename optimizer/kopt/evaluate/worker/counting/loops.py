"""Which iterations of a loop are run, and how many each of them stands for.

A loop whose iterations differ in their index alone is run three times: first, one for all of those between, last. One
that reads real data or takes varying branches is run in full, or sampled evenly when that is out of reach; one around
other loops is sampled evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import triton.language as tl

from kopt.evaluate.worker.counting.arrays import known
from kopt.evaluate.worker.counting.builder import CountingBuilder
from kopt.evaluate.worker.counting.tally import Span

SHORT = 5
"""Loops of up to this many iterations are always run in full."""
NESTED = 3
"""Iterations that are run, after the first, of a steady loop around other loops."""
LONG = 4096
"""Iterations of one unsteady loop, and of any `while`, before the kernel is given up or sampled."""


class Enough(BaseException):
    """Ends a program early; no `except Exception` of the interpreter stops it."""


class TooLong(Exception):
    """The kernel cannot be counted within the limits."""


@dataclass
class Depth:
    """How much of a program is run."""

    kind: str = "exact"
    """"full": every iteration; "exact": first, middle, last; "light": one iteration stands for all; "window": until the
    second iteration of `stop`; "probe": no iteration, only how many there would be."""
    stop: Span | None = None
    seen: int = 0


class Loops:
    """The functions that rewritten kernels call."""

    def __init__(self, builder: CountingBuilder) -> None:
        self.builder = builder
        self.depth = Depth()
        self.iterations = 0

    def each(self, iterable: Any, first: int, last: int, steady: bool, static: bool) -> Iterator[Any]:
        """The items of a `for` that are run, with the tally's weight set for each."""
        items = iterable if isinstance(iterable, range | list | tuple) else list(iterable)
        if static or not items:
            yield from items
            return
        tally, span, length = self.builder.tally, (first, last), len(items)
        outer = tally.weight
        if not tally.stack:
            tally.lengths[span] = tally.lengths.get(span, 0) + length
        if self.depth.kind == "probe":
            return
        tally.enter(span)
        try:
            steered, nested = tally.steered, tally.nested
            for index, weight in self._plan(length, steady):
                if index is None:  # decide on the rest after having seen one iteration
                    even = steady and tally.steered == steered
                    for index, weight in self._rest(length, even, tally.nested != nested):
                        yield from self._one(items[index], outer * weight, span)
                    break
                yield from self._one(items[index], outer * weight, span)
        finally:
            tally.weight = outer
            tally.leave()

    def _one(self, item: Any, weight: float, span: Span) -> Iterator[Any]:
        tally, depth = self.builder.tally, self.depth
        if depth.stop == span:
            if depth.seen:
                raise Enough
            depth.seen += 1
        self._tick()
        tally.weight = weight
        tally.here.executions += weight
        stack, here = list(tally.stack), tally.here
        yield item
        # A `return` or `break` inside an inner loop may have left its generator unfinished.
        tally.stack[:], tally.here = stack, here

    def _plan(self, length: int, steady: bool) -> Iterator[tuple[int | None, float]]:
        if self.depth.kind == "full" or length <= SHORT:
            yield from ((index, 1.0) for index in range(length))
        elif self.depth.kind == "light" and steady:
            yield length // 2, float(length)
        else:
            yield 0, 1.0
            yield None, 0.0

    def _rest(self, length: int, even: bool, nested: bool) -> Iterator[tuple[int, float]]:
        """Iterations after the first, each with the number that it stands for."""
        tally = self.builder.tally
        if even and not nested:
            tally.truncated = True
            yield length // 2, float(length - 2)
            yield length - 1, 1.0
            return
        if not even and length <= LONG:
            yield from ((index, 1.0) for index in range(1, length))
            return
        samples = NESTED if even else LONG // 16
        tally.truncated = True
        if not even:
            tally.warn("a long loop that depends on data was sampled")
        samples = min(samples, length - 1)
        edges = [1 + (length - 1) * i // samples for i in range(samples + 1)]
        for low, high in pairwise(edges):
            yield (low + high - 1) // 2, float(high - low)

    def until(self, test: Callable[[], Any], first: int, last: int) -> Iterator[None]:
        """The turns of a `while`, all of them: what its condition carries cannot be skipped."""
        tally, span = self.builder.tally, (first, last)
        if self.depth.kind == "probe":
            return
        weight = tally.weight
        tally.enter(span)
        try:
            for turn in count(0):
                value = test()
                if isinstance(value, tl.tensor) and not known(value.handle):
                    # Unknown: the body runs once, so that its work is seen.
                    tally.warn("a loop's end depends on data: one iteration was counted")
                    holds = turn == 0
                else:
                    holds = self._truth(value)
                if not holds:
                    return
                if turn:
                    tally.steered += 1
                yield from self._one(None, weight, span)
        finally:
            tally.leave()

    def branch(self, test: Any, varies: bool) -> bool:
        tally = self.builder.tally
        if varies:
            tally.steered += 1
        if isinstance(test, tl.tensor) and not known(test.handle):
            tally.warn("a branch depends on data: one side was counted")
        return self._truth(test)

    def span(self, first: int, last: int) -> None:
        self.builder.tally.span(first, last)

    @staticmethod
    def _truth(test: Any) -> bool:
        value = getattr(test, "value", test) if isinstance(test, tl.constexpr) else test
        return bool(value)

    def _tick(self) -> None:
        self.iterations += 1
        if self.iterations > 4 * LONG:
            raise TooLong(f"a program ran more than {4 * LONG} loop iterations while it was counted")
