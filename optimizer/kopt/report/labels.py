"""Where labels of points on one axis go, so that no text touches another text or another label's leader line.

Pure geometry, in any one unit. Labels stand in lanes above the axis, each on a leader that runs down to its point.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

APART = 4
"""Distance between two texts of one lane, in gaps: close neighbours would read as one label."""


class Spot(NamedTuple):
    """Where one label stands."""

    lane: int
    """0 is nearest the axis."""
    left: float
    right: float


def place(points: Sequence[float], widths: Sequence[float], span: float, gap: float) -> list[Spot] | None:
    """A spot for every label within [0, span], in as few lanes as possible; None when there is no such layout.

    Every label stands on top of its leader: starting there, centred on it or ending there. Which is tried out (3^n
    layouts, so keep it to about seven labels); for given places, what may not cross what is an order from bottom up.
    """
    choices = [
        [left for left in (x - gap, x - width / 2, x - width + gap) if left >= 0 and left + width <= span]
        for x, width in zip(points, widths, strict=True)
    ]
    best: list[Spot] | None = None
    for lefts in product(*choices):
        boxes = [(left, left + width) for left, width in zip(lefts, widths, strict=True)]
        lanes = _lanes(points, boxes, gap)
        if lanes is not None and (best is None or max(lanes, default=0) < max(spot.lane for spot in best)):
            best = [Spot(lane, *box) for lane, box in zip(lanes, boxes, strict=True)]
    return best


def _lanes(points: Sequence[float], boxes: Sequence[tuple[float, float]], gap: float) -> list[int] | None:
    """The lowest lanes for texts that span these intervals, or None when two must each be below the other."""
    every = range(len(points))
    # A leader that would run through a text must end below it.
    below = {
        i: {j for j in every if j != i and boxes[i][0] - gap / 2 < points[j] < boxes[i][1] + gap / 2} for i in every
    }
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


def _close(a: tuple[float, float], b: tuple[float, float], gap: float) -> bool:
    return a[0] < b[1] + gap and b[0] < a[1] + gap
