"""What a handful of noisy times allows to be said. The unit of comparison is the log-ratio of one ABBA quad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, median, quantiles, stdev

from kopt.records import Quantity


def quad(a: Sequence[float], b: Sequence[float]) -> float:
    """log(time of A / time of B) of a quad measured as A, B, B, A: linear drift cancels."""
    return fmean(map(math.log, a)) - fmean(map(math.log, b))


def middle(values: Sequence[float]) -> Quantity:
    """Median with the widest interval of order statistics at or below 95 % confidence; the range for fewer than six."""
    ordered = sorted(values)
    n = len(ordered)
    below, k = 0.0, 0
    while k < n // 2 and (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    k = max(0, k - 1)
    return Quantity(value=median(ordered), low=ordered[k], high=ordered[n - 1 - k])


def ratio(logs: Sequence[float]) -> Quantity:
    """exp of the mean log-ratio with its 95 % interval (Student); no interval from a single quad."""
    center = fmean(logs)
    if len(logs) < 2:
        return Quantity(value=math.exp(center))
    half = student_quantile(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Quantity(value=math.exp(center), low=math.exp(center - half), high=math.exp(center + half))


FEWEST = 3
"""Quads from which an interval is worth something."""


def precise(logs: Sequence[float], within: float | None) -> bool:
    """Whether the 95 % interval of the ratio (see `ratio`) reaches no further than `within` to either side."""
    if within is None or len(logs) < FEWEST:
        return False
    return student_quantile(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs)) <= math.log1p(within)


def p_faster(logs: Sequence[float], gain: float = 0.0) -> float:
    """One-sided p of "A is faster than B by more than `gain`", from log(time A / time B) of independent quads."""
    n = len(logs)
    if n < 2:
        return 1.0
    excess, spread = fmean(logs) + math.log1p(gain), stdev(logs)
    if spread == 0:
        return 0.0 if excess < 0 else 1.0
    return student_cdf(excess / (spread / math.sqrt(n)), n - 1)


def promotes(shapes: Sequence[Sequence[float]], submissions: int, *, gain: float = 0.005, alpha: float = 0.05) -> bool:
    """Whether a candidate replaces the incumbent, from log(candidate / incumbent) per quad, one list per shape.

    The geometric mean over shapes must be faster by at least `gain`, and faster at all with p < alpha / submissions so
    far: the best of 150 noisy numbers is always too good. Quad i of every shape is taken as one observation.
    """
    if not shapes or min(map(len, shapes)) < 2:
        return False
    together = [fmean(row) for row in zip(*shapes, strict=False)]
    return fmean(together) <= -math.log1p(gain) and p_faster(together) < alpha / max(1, submissions)


def student_cdf(t: float, df: int) -> float:
    """P(T <= t), by Simpson's rule on the density."""
    if t == 0:
        return 0.5
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    # With t = sqrt(df) tan(u) the tail is finite: density becomes scale sqrt(df) cos(u)**(df - 1).
    end, steps = math.atan(abs(t) / math.sqrt(df)), 400
    h = end / steps
    total = sum((1 if i in (0, steps) else 4 if i % 2 else 2) * math.cos(i * h) ** (df - 1) for i in range(steps + 1))
    half = scale * math.sqrt(df) * total * h / 3
    return min(1.0, max(0.0, 0.5 + math.copysign(half, t)))


def quarter(values: Sequence[float]) -> float:
    """What a quarter of the values lie below."""
    return quantiles(values, n=4, method="inclusive")[0] if len(values) > 1 else values[0]


@cache
def student_quantile(p: float, df: int) -> float:
    """The t that `student_cdf` maps to p, for p above one half."""
    low, high = 0.0, 1.0
    while student_cdf(high, df) < p:
        high *= 2
    for _ in range(60):
        mid = (low + high) / 2
        low, high = (mid, high) if student_cdf(mid, df) < p else (low, mid)
    return high
