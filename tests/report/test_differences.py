"""Differences between sources: right, shortest where they are shown line by line, and bounded."""

from __future__ import annotations

import random
import time

import pytest

from kopt.report.differences import CONTEXT, MOST_EDITS, Difference, difference, turnover


def applied(old: list[int], new: list[int], found: Difference) -> list[int]:
    """The new source, rebuilt from the old one and the hunks."""
    made, at = [], 0
    for hunk in found.hunks:
        first = next((line.old for line in hunk if line.old), None)
        start = first - 1 if first is not None else at + next(line.new for line in hunk) - 1 - len(made)
        made += old[at:start]
        at = start
        for line in hunk:
            if line.sign != "-":
                made.append(line.id)
            at += line.sign != "+"
    return made + old[at:]


@pytest.mark.parametrize("seed", range(300))
def test_a_difference_turns_the_old_source_into_the_new_one(seed: int) -> None:
    draw = random.Random(seed)
    old = [draw.randrange(6) for _ in range(draw.randrange(0, 40))]
    new = list(old)
    for _ in range(draw.randrange(0, 9)):
        at = draw.randrange(len(new) + 1)
        new[at : at + draw.randrange(0, 3)] = [draw.randrange(9) for _ in range(draw.randrange(0, 3))]
    found = difference(old, new)
    assert applied(old, new, found) == new
    assert found.added - found.removed == len(new) - len(old)
    added, removed = turnover(old, new)
    assert added <= found.added
    assert removed <= found.removed


def test_line_numbers_are_those_of_the_two_sources() -> None:
    old, new = list(range(100, 120)), [*range(100, 108), 7, *range(109, 120)]
    (hunk,) = difference(old, new).hunks
    assert [(line.sign, line.old, line.new) for line in hunk if line.sign != " "] == [("-", 9, 0), ("+", 0, 9)]
    assert [(line.old, line.new) for line in hunk if line.sign == " "] == [
        (6, 6),
        (7, 7),
        (8, 8),
        (10, 10),
        (11, 11),
        (12, 12),
    ]


def test_changes_far_apart_are_hunks_of_their_own() -> None:
    old = list(range(100))
    new = [-1, *old[1:50], -2, *old[51:]]
    found = difference(old, new)
    assert [len(hunk) for hunk in found.hunks] == [2 + CONTEXT, 2 + 2 * CONTEXT]
    assert (found.added, found.removed) == (2, 2)


def test_equal_sources_have_no_difference() -> None:
    assert difference([1, 2, 3], [1, 2, 3]) == Difference((), 0, 0)


def test_a_rewritten_source_is_called_that_and_costs_little() -> None:
    old, new = [i % 2 for i in range(4000)], [2 + i % 3 for i in range(4000)]
    began = time.process_time()
    found = difference(old, new)
    assert found == Difference((), 4000, 4000, rewritten=True)
    assert time.process_time() - began < 5, MOST_EDITS
