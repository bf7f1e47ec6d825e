"""Does a call cost the same however it is asked for? What is saved up, or done for many calls at once, shows here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from kopt.judge.deck import Call, Deck
from kopt.records import Finding, Shape, Status

_AMORTISED = 1.1
"""Batches of new operands against batches as long in which operands return."""
_NOISE_US = 100.0
"""What a batch may differ by without meaning anything: contexts take turns."""
_HALVED = 0.05
_ALONE = 1.5
_ALONE_US = 500.0
"""By how much a call that is alone may exceed one of many: host code and launches that nothing hides then."""
_REPEATS = 3
_AGAIN = 6
"""Turns more before a kernel is rejected: calls shorter than their host code are as noisy as the host is busy."""


def agreement(
    shape: Shape, deck: Deck, calls: int, timed: Callable[[Sequence[Call]], float], fewest: int = 1
) -> Iterator[Finding]:
    """Ask for calls in other ways; `timed` gives microseconds per call of a batch.

    A kernel that packs or transposes an operand when it first sees it, and remembers, is slower where every operand is
    new than where the same number of calls shares a few: `fewest`, at least, so that operands that return do not
    return from a cache.
    """
    count = min(deck.variants, calls)
    few = max(math.isqrt(count - 1) + 1, fewest)
    if count >= 4 and few < count:
        news: list[float] = []
        returns: list[float] = []
        # By turns, so that a host that is slow for a while is slow for both; whoever seems slower is asked again.
        for turns in (_REPEATS, _AGAIN):
            for _ in range(turns):
                news.append(timed(deck.diagonal(count)))
                returns.append(timed(deck.deal(count, few)))
            # Of those that may be found too slow the least, or of many the lower quartile: whatever else delays a batch
            # is no kernel's doing, and one that remembers now and then is not let off for the once that it did not.
            new, returning = sorted(news)[len(news) // 4], median(returns)
            if new <= _AMORTISED * returning or (new - returning) * count <= _NOISE_US:
                break
        else:
            yield Finding(
                rule="judge.amortised",
                message=f"{new:.1f} us per call when every operand is new, {returning:.1f} us when operands return",
                status=Status.REJECTED,
                shape=shape.name,
                got=f"{returning:.2f} us",
                want=f"{new:.2f} us",
            )
    if calls >= 8:
        whole, half = (median(timed(deck.deal(n)) for _ in range(_REPEATS)) for n in (calls, calls // 2))
        if abs(half / whole - 1) > _HALVED:
            yield Finding(
                rule="judge.agreement",
                message=f"{whole:.1f} us per call in batches of {calls}, {half:.1f} us in batches of {calls // 2}",
                shape=shape.name,
            )
        # A call that is short beside what a batch differs by says nothing alone.
        alone = min(timed(deck.deal(1)) for _ in range(_REPEATS)) if whole > _NOISE_US else 0.0
        if alone > _ALONE * whole and alone - whole > _ALONE_US:
            yield Finding(
                rule="judge.alone",
                message=f"{whole:.1f} us per call in batches of {calls}, {alone:.1f} us for a call alone",
                shape=shape.name,
            )
