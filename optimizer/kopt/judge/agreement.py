"""Does a call cost the same however it is asked for? What is saved up, or done for many calls at once, shows here."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from kopt.records import Finding, Shape, Status

_AMORTISED = 1.15
"""First use of every operand against the mix of first and later uses."""
_HALVED = 0.05
_REPEATS = 3


def agreement(
    shape: Shape, us: float, calls: int, variants: int, timed: Callable[[int, bool], float]
) -> Finding | None:
    """Compare `us` per call with batches half as long, and with batches in which no operand is used twice.

    `timed(count, mixed)` gives microseconds per call; without `mixed` every operand is used once. A kernel that packs
    or transposes an operand when it first sees it, and remembers, is slower there.
    """
    if variants > 1:
        once = median(timed(min(variants, calls), False) for _ in range(_REPEATS))
        if once > _AMORTISED * us and (once - us) * min(variants, calls) > 200.0:
            return Finding(
                rule="judge.amortised",
                message=f"{once:.1f} us per call when every operand is new, {us:.1f} us when some were seen before",
                status=Status.REJECTED,
                shape=shape.name,
                got=f"{us:.2f} us",
                want=f"{once:.2f} us",
            )
    if calls >= 4:
        half = median(timed(calls // 2, True) for _ in range(_REPEATS))
        if abs(half / us - 1) > _HALVED:
            return Finding(
                rule="judge.agreement",
                message=f"{us:.1f} us per call in batches of {calls}, {half:.1f} us in batches of {calls // 2}",
                shape=shape.name,
            )
    return None
