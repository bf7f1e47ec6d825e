"""Axes of the page's plots. Places across are percentages, so that a plot fits any width without scaling its text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple


class Tick(NamedTuple):
    """A labelled place: percent from the left, or pixels from the top."""

    at: float
    label: str


class Axis(NamedTuple):
    """From values to [0, size]. A logarithmic axis has positive ends."""

    low: float
    high: float
    size: float
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            low, high, value = log10(self.low), log10(self.high), log10(max(value, self.low / 1e6))
        else:
            low, high = self.low, self.high
        return round((value - low) / ((high - low) or 1.0) * self.size, 2)

    def down(self, value: float) -> float:
        """As `at`, counted from the top."""
        return round(self.size - self.at(value), 2)


def steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that divide a range in about so many parts."""
    span = max(high - low, 1e-12)
    raw = span / about
    size = 10.0 ** floor(log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... or powers of ten where there are many."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if len(exponents) <= 4 else (1,)
    return [f * 10.0**e for e in exponents for f in factors if low * 0.999 <= f * 10.0**e <= high * 1.001]


def short(value: float) -> str:
    """ "1,200", "12", "0.25": three digits are enough on an axis."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """ "90 s", "15 min", "2.5 h" for an axis."""
    if seconds < 120:
        return f"{short(seconds)} s"
    return f"{short(round(seconds / 60, 1))} min" if seconds < 7200 else f"{short(round(seconds / 3600, 1))} h"


def clock_steps(high: float, about: int = 6) -> list[float]:
    """Steps of an axis of seconds, in the unit that it is labelled with."""
    unit = 1 if high < 120 else 60 if high < 7200 else 3600
    return [value * unit for value in steps(0, high / unit, about)]


def width(text: str, size: float) -> float:
    """Pixels that a text takes at most in a sans-serif font of `size` pixels."""
    return size * sum(_ems(char) for char in text) * 1.06


def _ems(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if char in "iljtfrI.,:;'|!()[] ":
        return 0.36
    if char in "mwMW@%":
        return 0.92
    return 0.68 if char.isupper() else 0.57


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones and in their order, at least `gap` apart, within [low, high] as far as they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [min(max(wanted[i], low), high) for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in range(len(places) - 1, -1, -1):
        limit = high if i == len(places) - 1 else places[i + 1] - gap
        places[i] = min(places[i], limit)
    found = [0.0] * len(wanted)
    for place, i in zip(places, order, strict=True):
        found[i] = round(place, 2)
    return found
