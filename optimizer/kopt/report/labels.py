"""Where labels of points on one axis go, so that no text touches another text or another label's leader line.

Pure geometry, in any one unit. Labels stand in lanes above the axis, each on a leader that runs down to its point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

APART = 4
"""Distance between two texts of one lane, in gaps: close neighbours would read as one label."""

SHIFTS = (0.0, 0.5, 1.0, 0.25, 0.75)
"""How far a text may reach to the left of its leader, in its own width, the preferred ways first."""

PATIENCE = 2000
"""Layouts looked at; any of them is right, the rest would only be lower."""


class Spot(NamedTuple):
    """Where one label stands."""

    lane: int
    """0 is nearest the axis."""
    left: float
    right: float


Box = tuple[float, float]


def place(points: Sequence[float], widths: Sequence[float], span: float, gap: float) -> list[Spot] | None:
    """A spot for every label within [0, span], in few lanes; None when there is no layout.

    Every label stands on top of its leader: starting there, ending there, or in between. Which is tried out; for given
    places, what may not cross what is an order from bottom up.
    """
    best: list[Spot] | None = None
    for boxes in islice(_layouts(points, widths, span, gap), PATIENCE):
        lanes = _lanes(points, boxes, gap)
        if lanes is not None and (best is None or max(lanes, default=0) < max(spot.lane for spot in best)):
            best = [Spot(lane, *box) for lane, box in zip(lanes, boxes, strict=True)]
    return best


def _layouts(
    points: Sequence[float], widths: Sequence[float], span: float, gap: float, made: tuple[Box, ...] = ()
) -> Iterator[tuple[Box, ...]]:
    """Every choice of places in which no two labels each stand in the way of the other's leader."""
    i = len(made)
    if i == len(points):
        yield made
        return
    for shift in SHIFTS:
        left = points[i] - shift * widths[i]
        box = (left, left + widths[i])
        if left < 0 or box[1] > span:
            continue
        if any(_blocks(box, points[j], gap) and _blocks(made[j], points[i], gap) for j in range(i)):
            continue
        yield from _layouts(points, widths, span, gap, (*made, box))


def _blocks(box: Box, point: float, gap: float) -> bool:
    return box[0] - gap / 4 < point < box[1] + gap / 4


def _lanes(points: Sequence[float], boxes: Sequence[Box], gap: float) -> list[int] | None:
    """The lowest lanes for texts that span these intervals, or None when two must each be below the other."""
    every = range(len(points))
    # A leader that would run through a text must end below it.
    below = {i: {j for j in every if j != i and _blocks(boxes[i], points[j], gap)} for i in every}
    lanes: dict[int, int] = {}
    while len(lanes) < len(points):
        ready = [i for i in every if i not in lanes and below[i] <= lanes.keys()]
        if not ready:
            return None
        # Later points first, so that labels that could stand in any order descend from left to right.
        i = ready[-1]
        lane = max((lanes[j] + 1 for j in below[i]), default=0)
        while any(lanes[j] == lane and _close(boxes[i], boxes[j], APART * gap) for j in lanes):
            lane += 1
        lanes[i] = lane
    return [lanes[i] for i in every]


def _close(a: Box, b: Box, gap: float) -> bool:
    return a[0] < b[1] + gap and b[0] < a[1] + gap
