"""Labels and leaders never touch, whatever the points and widths."""

from __future__ import annotations

import random

import pytest

from kopt.report.labels import place

GAP, SPAN = 0.07, 8.3


@pytest.mark.parametrize("seed", range(150))
def test_no_label_touches_another_label_or_leader(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(1, 6)
    points = sorted(draw.uniform(0, 7.2) ** draw.choice([1, 2]) % 7.2 for _ in range(count))
    widths = [draw.uniform(0.6, 3.0) for _ in range(count)]
    spots = place(points, widths, SPAN, GAP)
    if spots is None:
        return
    for i, a in enumerate(spots):
        assert -1e-9 <= a.left <= points[i] + 1e-9
        assert points[i] - 1e-9 <= a.right <= SPAN + 1e-9
        for j, b in enumerate(spots):
            if i == j:
                continue
            assert a.lane != b.lane or a.right < b.left or b.right < a.left, "two texts overlap"
            assert not (b.lane > a.lane and a.left <= points[j] <= a.right), "a leader runs through a text"


def test_most_crowds_find_a_place() -> None:
    draw = random.Random(1)
    found = 0
    for _ in range(60):
        points = sorted(draw.uniform(0, 7.2) for _ in range(6))
        found += place(points, [draw.uniform(1.2, 2.6) for _ in points], SPAN, GAP) is not None
    assert found >= 50


def test_labels_far_apart_share_the_lowest_lane() -> None:
    spots = place([0.5, 4.0, 7.0], [1.0, 1.0, 1.0], SPAN, GAP)
    assert spots is not None
    assert [spot.lane for spot in spots] == [0, 0, 0]


def test_a_label_wider_than_the_axis_has_no_place() -> None:
    assert place([1.0], [9.0], SPAN, GAP) is None
    assert place([], [], SPAN, GAP) is None or place([], [], SPAN, GAP) == []
