"""Utilization by submission: places of points, the best so far, labels of landmarks and lines to hold them against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from kopt.report.labels import place
from kopt.report.ledger import Ledger
from kopt.report.page.scale import Axis, Tick, clock, clock_steps, short, spread, steps, width
from kopt.report.rows import Landmark, Row, Rows
from kopt.report.terminal import unit
from kopt.text import line, percent

HEIGHT, STRIP, LANE = 300, 24, 22
"""Pixels: of the plot, of a row for one way to fail, of a row of labels."""
NARROWEST = 640
"""Pixels of the plot's width from which labels are shown; those placed for this width fit any larger one."""
FONT = 13
MARGIN = 1.5
"""Percent beside the first and the last point."""
NOTED = 400
"""Up to so many submissions, every point carries its note: more would make the page heavy."""

STATUSES = ("rejected", "compile_error", "wrong", "crashed", "timeout", "pending", "passed")

SHORT = {"compile_error": "compile", "pending": "pending", "passed": "no score"}
"""Statuses in the room beside the plot."""


class Point(NamedTuple):
    """One submission. `look` is what it is drawn as: "best", a status, "unscored", "refuted" or "other"."""

    n: int
    x: float
    y: float
    look: str
    title: str


class Label(NamedTuple):
    """A landmark's text: `shift` pixels beside its point, `y` pixels below the top."""

    n: int
    words: str
    score: str
    x: float
    shift: float
    width: float
    y: float
    foot: float
    """Where its leader ends: at its point."""


class Line(NamedTuple):
    """A score to hold the others against. `label_y` keeps the texts beside the plot apart."""

    y: float
    label_y: float
    score: str
    words: str
    kind: str


class Mode(NamedTuple):
    """One way to lay out the horizontal axis."""

    key: str
    name: str
    xs: list[float]
    ticks: list[Tick]
    path: str
    """The best so far, in a box 1000 wide."""
    labels: list[Label]


class Strip(NamedTuple):
    """A row below the plot for those without a score."""

    status: str
    y: float
    words: str


class Chart(NamedTuple):
    name: str
    unit: str
    band: float
    """Pixels above the plot that hold the landmarks' labels."""
    lanes: int
    plot: float
    height: float
    points: list[Point]
    ticks: list[Tick]
    lines: list[Line]
    strips: list[Strip]
    modes: list[Mode]
    watermark: str


def chart(rows: Rows, ledger: Ledger, vendor: float | None) -> Chart:
    """`vendor` is the library's score in the same run, where it was measured."""
    values = _axes(rows, ledger)
    placed = {key: _place(rows, key, xs) for key, (_, xs, _) in values.items()}
    lanes = 1 + max((spot[3] for spots in placed.values() for spot in spots), default=-1)
    band = lanes * LANE + (6 if lanes else 10)
    references = _references(rows, vendor)
    top = 1.06 * max([row.score or 0.0 for row in rows.submissions] + [score for score, _, _ in references] + [0.01])
    axis = Axis(0, min(top, max(1.0, top / 1.06)), HEIGHT)
    strips = _strips(rows, band)
    ys = [_y(row, axis, band, strips) for row in rows.submissions]
    noted = len(rows.submissions) <= NOTED
    first = next(iter(values.values()))[1]
    points = [
        Point(row.n, x, y, look(row, rows.evidence), title(row, rows, ledger, noted=noted))
        for row, x, y in zip(rows.submissions, first, ys, strict=True)
    ]
    modes = [
        Mode(key, name, xs, ticks, _path(rows, xs, axis, band), _labels(rows.landmarks, placed[key], axis, band, lanes))
        for key, (name, xs, ticks) in values.items()
    ]
    return Chart(
        "Utilization" if rows.metric == "utilization" else "Share of the roofline", unit(rows),
        band, lanes, HEIGHT, band + HEIGHT + STRIP * len(strips) + 8, points,
        [Tick(round(band + axis.down(v), 1), f"{short(round(100 * v, 6))} %") for v in steps(0, axis.high)],
        _lines(references, axis, band), strips, modes, "MODELLED" if rows.evidence == "modelled" else "",
    )  # fmt: skip


def look(row: Row, evidence: str | None) -> str:
    if row.refuted and row.score is not None:
        return "refuted"
    if row.score is None:
        return "unscored" if row.status == "passed" else row.status
    return "other" if row.evidence != evidence else "best" if row.improved else row.status


def title(row: Row, rows: Rows, ledger: Ledger, *, noted: bool = True) -> str:
    """A point in words: number, what became of it, score with its interval, note."""
    words = f"#{row.n} {row.status.replace('_', ' ')}" if row.status != "pending" else f"#{row.n}, no verdict yet"
    if row.score is not None:
        words += (
            f", {row.evidence} {score(row, ledger)} of {'peak' if rows.metric == 'utilization' else 'the roofline'}"
        )
        words += f", {percent(row.screened)} before it was measured again" if row.screened is not None else ""
        words += ", did not hold up when it was measured again" if row.refuted else ""
        words += ", a new best" if row.improved else ""
    said = row.note if row.status in ("passed", "pending") else row.reason or row.note
    return f"{words}: {line(said, 160)}" if noted and said.strip() else words


def score(row: Row, ledger: Ledger) -> str:
    """ "58.3 %", with its interval where it was measured."""
    ends = ledger.intervals.get(row.n)
    if ends is None or row.evidence != "measured":
        return percent(row.score)
    return f"{percent(row.score)} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _axes(rows: Rows, ledger: Ledger) -> dict[str, tuple[str, list[float], list[Tick]]]:
    """Name, places in percent and ticks by mode; those that say nothing about this run are left out."""
    every = rows.submissions

    def spent(row: Row, index: int) -> float:
        return float(ledger.spent[row.n][index]) if row.n in ledger.spent else 0.0

    def layout(
        values: Sequence[float], low: float, ticks: Callable[[float], list[tuple[float, str]]]
    ) -> tuple[list[float], list[Tick]]:
        high = max([*values, low])
        axis = Axis(low, high if high > low else low + 1, 100 - 2 * MARGIN)
        return [round(MARGIN + axis.at(v), 2) for v in values], [
            Tick(round(MARGIN + axis.at(v), 2), label) for v, label in ticks(axis.high)
        ]

    def whole(high: float) -> list[tuple[float, str]]:
        found = [v for v in steps(1, high, 8) if v == int(v)]
        return [(v, f"{v:,.0f}") for v in sorted({1.0, *(v for v in found if v > high / 25)})]

    modes = {"submission": ("submission", *layout([float(row.n) for row in every], 1, whole if every else _nothing))}
    times = [row.finished if row.finished is not None else row.proposed for row in every]
    if max(times, default=0.0) > 0:
        modes["time"] = (
            "active time", *layout(times, 0, lambda high: [(v, clock(v)) for v in clock_steps(high)])
        )  # fmt: skip
    for key, name, index, form in (("dollars", "dollars", 1, "${}"), ("calls", "tool calls", 2, "{}")):
        values = _carried([spent(row, index) for row in every])
        if max(values, default=0.0) > 0:

            def ticks(high: float, form: str = form) -> list[tuple[float, str]]:
                return [(v, form.format(short(v))) for v in steps(0, high, 7)]

            modes[key] = (name, *layout(values, 0, ticks))
    return modes


def _nothing(high: float) -> list[tuple[float, str]]:
    return []


def _carried(values: Sequence[float]) -> list[float]:
    """What was spent only grows: one without a verdict stands where the run stood before it."""
    found, most = [], 0.0
    for value in values:
        most = max(most, value)
        found.append(most)
    return found


def _y(row: Row, axis: Axis, band: float, strips: Sequence[Strip]) -> float:
    if row.score is not None:
        return round(band + axis.down(row.score), 1)
    return next(strip.y for strip in strips if strip.status == row.status)


def _strips(rows: Rows, band: float) -> list[Strip]:
    without = {row.status for row in rows.submissions if row.score is None}
    present = [status for status in STATUSES if status in without]
    return [Strip(s, band + HEIGHT + STRIP * (i + 0.5) + 6, SHORT.get(s, s)) for i, s in enumerate(present)]


def _path(rows: Rows, xs: Sequence[float], axis: Axis, band: float) -> str:
    """Steps of the best so far, to the right edge."""
    parts: list[str] = []
    for row, x in zip(rows.submissions, xs, strict=True):
        if row.improved and row.best is not None:
            y = round(band + axis.down(row.best), 1)
            parts.append(f"H{round(10 * x, 1):g}V{y:g}" if parts else f"M{round(10 * x, 1):g} {y:g}")
    return "".join(parts) + "H1000" if parts else ""


def _place(rows: Rows, key: str, xs: Sequence[float]) -> list[tuple[Landmark, float, float, int]]:
    """Landmarks with their place, the shift of their text and its lane; the smallest step goes when not all fit."""
    marks = list(rows.landmarks)
    at = {row.n: x for row, x in zip(rows.submissions, xs, strict=True)}
    while marks:
        points = [at[mark.n] / 100 * NARROWEST for mark in marks]
        spots = place(points, [width(_words(mark), FONT) for mark in marks], NARROWEST, 8)
        if spots is not None:
            return [
                (mark, at[mark.n], round(spot.left - point, 1), spot.lane)
                for mark, point, spot in zip(marks, points, spots, strict=True)
            ]
        gains = [after.score - before.score for before, after in pairwise(marks)]
        del marks[min(range(1, max(2, len(marks) - 1)), key=lambda i: gains[i - 1])]
    return []


def _words(mark: Landmark) -> str:
    return f"{line(mark.label, 30)} {percent(mark.score)}"


def _labels(
    marks: Sequence[Landmark], placed: Sequence[tuple[Landmark, float, float, int]], axis: Axis, band: float, lanes: int
) -> list[Label]:
    return [
        Label(
            mark.n, line(mark.label, 30), percent(mark.score), x, shift, round(width(_words(mark), FONT), 1),
            round(band - 6 - (lane + 1) * LANE, 1), round(band + axis.down(mark.score), 1),
        )
        for mark, x, shift, lane in placed
    ]  # fmt: skip


def _references(rows: Rows, vendor: float | None) -> list[tuple[float, str, str]]:
    found: list[tuple[float, str, str]] = []
    if rows.best is not None and rows.best.score is not None:
        found.append((rows.best.score, f"best, #{rows.best.n}", "best"))
    if rows.first is not None and rows.best is not None and rows.first.n != rows.best.n:
        found.append((rows.first.score or 0.0, f"first, #{rows.first.n}", "first"))
    if vendor is not None:
        found.append((vendor, "vendor library", "vendor"))
    if rows.reference is not None:
        found.append((rows.reference.score, rows.reference.label, "published"))
    return found


def _lines(references: Sequence[tuple[float, str, str]], axis: Axis, band: float) -> list[Line]:
    ys = [round(band + axis.down(score), 1) for score, _, _ in references]
    apart = spread(ys, 36, band + 8, band + HEIGHT - 16)
    return [
        Line(y, label_y, percent(score), words, kind)
        for y, label_y, (score, words, kind) in zip(ys, apart, references, strict=True)
    ]
