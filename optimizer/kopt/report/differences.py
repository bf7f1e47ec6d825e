"""What changed between two sources that are lists of line numbers (see highlight.py). Bounded, whatever they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CONTEXT = 3
MOST_EDITS = 250
"""Beyond so many single-line edits a source counts as rewritten: the work grows with their square."""


class Line(NamedTuple):
    """One line of a difference; `old` and `new` are line numbers from 1, 0 where the line is on the other side only."""

    sign: str
    old: int
    new: int
    id: int


class Difference(NamedTuple):
    """Hunks of lines with their context. `rewritten` says that too much changed to be shown line by line."""

    hunks: tuple[tuple[Line, ...], ...]
    added: int
    removed: int
    rewritten: bool = False


def turnover(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """Lines that only the new and only the old source has, wherever they stand: cheap, and close to the difference."""
    left, common = Counter(old), 0
    for id, count in Counter(new).items():
        common += min(count, left[id])
    return len(new) - common, len(old) - common


def difference(old: Sequence[int], new: Sequence[int]) -> Difference:
    """The shortest edit script (Myers 1986), as hunks."""
    start, end = 0, 0
    most = min(len(old), len(new))
    while start < most and old[start] == new[start]:
        start += 1
    while end < most - start and old[-1 - end] == new[-1 - end]:
        end += 1
    a, b = old[start : len(old) - end], new[start : len(new) - end]
    script = _script(a, b)
    if script is None:
        return Difference((), len(b), len(a), rewritten=True)
    lines = [Line(" ", i + 1, i + 1, old[i]) for i in range(max(0, start - CONTEXT), start)]
    x, y = start, start
    for sign in script:
        lines.append(
            Line(sign, x + 1 if sign != "+" else 0, y + 1 if sign != "-" else 0, (new[y] if sign == "+" else old[x]))
        )
        x, y = x + (sign != "+"), y + (sign != "-")
    lines += [Line(" ", x + i + 1, y + i + 1, old[x + i]) for i in range(min(end, CONTEXT))]
    return Difference(
        tuple(_hunks(lines)), sum(line.sign == "+" for line in lines), sum(line.sign == "-" for line in lines)
    )


def _hunks(lines: Sequence[Line]) -> Iterator[tuple[Line, ...]]:
    """Lines within reach of a change, split where more than twice the context lies between."""
    changed = [i for i, line in enumerate(lines) if line.sign != " "]
    if not changed:
        return
    first = last = changed[0]
    for i in [*changed[1:], None]:
        if i is None or i - last > 2 * CONTEXT:
            yield tuple(lines[max(0, first - CONTEXT) : last + CONTEXT + 1])
            first = i if i is not None else first
        last = i if i is not None else last


def _script(a: Sequence[int], b: Sequence[int]) -> str | None:
    """One sign a line: " " kept, "-" removed, "+" added; None beyond MOST_EDITS."""
    n, m = len(a), len(b)
    if not n or not m:
        return "-" * n + "+" * m
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for edits in range(min(n + m, MOST_EDITS) + 1):
        trace.append(dict(furthest))
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = x - k
            while x < n and y < m and a[x] == b[y]:
                x, y = x + 1, y + 1
            furthest[k] = x
            if x >= n and y >= m:
                return _walk_back(trace, n, m)
    return None


def _walk_back(trace: Sequence[dict[int, int]], x: int, y: int) -> str:
    signs: list[str] = []
    for edits in range(len(trace) - 1, -1, -1):
        furthest, k = trace[edits], x - y
        down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
        before = k + 1 if down else k - 1
        px = furthest[before] if edits else 0
        py = px - before if edits else 0
        while x > px and y > py:
            signs.append(" ")
            x, y = x - 1, y - 1
        if edits:
            signs.append("+" if down else "-")
            x, y = px, py
    return "".join(reversed(signs))
