"""Utilization by submission, as PNG and SVG: readable at the width of a README, in print, and without colour."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.errors import HarnessError
from kopt.report.labels import Spot, place
from kopt.report.rows import Landmark, Row, Rows
from kopt.report.style import BADGES, FAINT, GRID, INK, LINE, MARKS, VENDOR, drawable, settings
from kopt.report.terminal import unit
from kopt.text import counted, line, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "utilization"

# Inches. 10 inches at 160 dots show at about half size in a README, where 12 points are still 10 pixels high.
WIDTH, LEFT, RIGHT, DPI = 10.0, 1.6, 1.2, 160
HEADER, PLOT, STRIP_ROW, FOOTER = 0.92, 3.5, 0.27, 0.88
LANE, GAP = 0.25, 0.07


def draw(rows: Rows, folder: Path, vendor: float | None = None) -> tuple[Path, Path]:
    """Write utilization.png and utilization.svg into `folder`, whole or not at all; HarnessError when it cannot.

    `vendor` is the library's score in the same run, where it was measured.
    """
    return write(lambda: compose(rows, vendor), folder, NAME, salt=rows.id)


def write(compose: Callable[[], Figure], folder: Path, name: str, *, salt: str) -> tuple[Path, Path]:
    """Compose a figure in the house's style and write it as PNG and SVG. The same `salt` gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    paths = folder / f"{name}.png", folder / f"{name}.svg"
    # No dates, no random ids.
    style: Any = {**settings(), "svg.hashsalt": salt}
    with mpl.rc_context(style):
        figure = compose()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, canvas, kind in zip(paths, (FigureCanvasAgg, FigureCanvasSVG), ("png", "svg"), strict=True):
                part = path.with_name(f".{path.name}.{os.getpid()}")
                metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
                canvas(figure).print_figure(part, format=kind, dpi=DPI, facecolor="white", metadata=metadata)
                part.replace(path)
        except OSError as error:
            raise HarnessError(f"cannot write figures into {folder}: {error.strerror or error}") from error
    return paths


def compose(rows: Rows, vendor: float | None = None) -> Figure:
    """The figure itself, drawn on no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    failed = [status for status in MARKS if status != "passed" and rows.statuses.get(status)]
    width = WIDTH - LEFT - RIGHT
    low, high = _ends(rows)

    probe = Figure(figsize=(WIDTH, 1), dpi=DPI)
    FigureCanvasAgg(probe)
    landmarks, spots = _spots(rows.landmarks, probe, low, high, width)
    band = LANE * (1 + max((spot.lane for spot in spots), default=-1))
    strip = STRIP_ROW * len(failed) + (0.12 if failed else 0.0)
    height = HEADER + band + PLOT + strip + FOOTER

    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    box = (LEFT / WIDTH, (FOOTER + strip) / height, width / WIDTH, PLOT / height)
    axes = figure.add_axes(box)
    axes.set_xlim(low, high)
    axes.set_ylim(0, _top(rows, vendor))
    _scores(axes, rows)
    _margin(axes, rows, vendor)
    _band(figure, axes, landmarks, spots, low, high, height)
    lowest = axes
    if failed:
        axes.tick_params(labelbottom=False, length=0)
        lowest = figure.add_axes((box[0], FOOTER / height, box[2], STRIP_ROW * len(failed) / height), sharex=axes)
        _failures(lowest, rows, failed)
    _axes_text(axes, lowest, rows)
    _header(figure, rows, height)
    return figure


def _ends(rows: Rows) -> tuple[float, float]:
    """First and last submission, with room for half a marker beside each."""
    count = max(len(rows.submissions), 1)
    room = max(0.5, 0.012 * count)
    return 1 - room, count + room


def _spots(
    landmarks: tuple[Landmark, ...], probe: Figure, low: float, high: float, width: float
) -> tuple[list[tuple[Landmark, str]], list[Spot]]:
    """Labels with their places in inches from the left of the axes; the smallest step goes when they do not fit."""
    labels = [(mark, f"{_words(mark)}  {percent(mark.score)}") for mark in landmarks]
    while labels:
        points = [(mark.n - low) / (high - low) * width for mark, _ in labels]
        spots = place(points, [_width(probe, text) for _, text in labels], width + RIGHT - 0.1, GAP)
        if spots is not None:
            return labels, spots
        steps = [after.score - before.score for (before, _), (after, _) in pairwise(labels)]
        # The first and the best stay.
        del labels[min(range(1, max(2, len(labels) - 1)), key=lambda i: steps[i - 1])]
    return [], []


def _words(mark: Landmark) -> str:
    return line(drawable(mark.label, f"submission {mark.n}"), 32)


def _width(probe: Figure, text: str) -> float:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = probe.text(0, 0, text, fontsize=11)
    assert isinstance(probe.canvas, FigureCanvasAgg)
    renderer = probe.canvas.get_renderer()  # type: ignore[no-untyped-call]
    inches = float(drawn.get_window_extent(renderer).width) / DPI
    drawn.remove()
    return inches


def _top(rows: Rows, vendor: float | None) -> float:
    scores = [row.score for row in rows.submissions if row.score is not None] + [vendor or 0.0]
    return 1.08 * max([*scores, rows.reference.score if rows.reference else 0.0, 0.01])


def _scores(axes: Axes, rows: Rows) -> None:
    """Points of everything that has a score, and the best so far."""
    size = _size(rows)
    scored = [row for row in rows.submissions if row.score is not None]
    other = [row for row in scored if row.evidence != rows.evidence]
    refuted = [row for row in scored if row.evidence == rows.evidence and row.refuted]
    plain = [row for row in scored if row.evidence == rows.evidence and not row.improved and not row.refuted]
    better = [row for row in scored if row.improved]
    mark = MARKS["passed"]
    if rows.evidence == "modelled":
        axes.text(
            0.5, 0.5, "MODELLED", transform=axes.transAxes, fontsize=70, color="#7a4b00", alpha=0.07, weight="bold",
            ha="center", va="center", zorder=0,
        )  # fmt: skip
    if better:
        xs, ys = [row.n for row in better], [row.best or 0.0 for row in better]
        axes.step(
            [*xs, axes.get_xlim()[1]], [*ys, ys[-1]], where="post", color=LINE, lw=2, zorder=3, label="best so far"
        )
    _scatter(axes, other, size * 0.6, "none", "o", f"{other[0].evidence}, not compared" if other else "", FAINT)
    _scatter(axes, refuted, size * 0.6, "none", "o", "did not hold up", MARKS["rejected"].colour)
    _scatter(axes, plain, size * 0.6, mark.colour, mark.shape, "passed", alpha=0.45)
    _scatter(axes, better, size, mark.colour, mark.shape, "passed, a new best", "white", zorder=4)
    if not scored:
        axes.text(0.5, 0.5, "no submission has a score yet", transform=axes.transAxes, ha="center", color=FAINT)


def _size(rows: Rows) -> float:
    """Area of a marker, in square points: smaller where there are many."""
    count = len(rows.submissions)
    return 90 if count <= 12 else 55 if count <= 60 else 30 if count <= 400 else 12


def _scatter(
    axes: Axes, rows: list[Row], size: float, colour: str, shape: str, label: str, edge: str = "none",
    alpha: float = 1.0, zorder: float = 2,
) -> None:  # fmt: skip
    if rows:
        axes.scatter(
            [row.n for row in rows], [row.score or 0.0 for row in rows], s=size, c=colour, marker=shape, label=label,
            edgecolors=edge, linewidths=0.8 if size > 20 else 0.0, alpha=alpha, zorder=zorder, clip_on=False,
        )  # fmt: skip


def _margin(axes: Axes, rows: Rows, vendor: float | None) -> None:
    """The best score and what it is held against, written beside the plot where nothing else is."""
    top = axes.get_ylim()[1]
    beside: list[tuple[float, str, str, str]] = []
    if rows.best is not None and rows.best.score is not None:
        beside.append((rows.best.score, f"{percent(rows.best.score)}\nbest", LINE, "bold"))
    if rows.reference is not None:
        axes.axhline(rows.reference.score, color=FAINT, lw=1.2, ls=(0, (5, 3)), zorder=1)
        beside.append(
            (rows.reference.score, f"{percent(rows.reference.score)}\n{rows.reference.label}", FAINT, "normal")
        )
    if vendor is not None:
        axes.axhline(vendor, color=VENDOR, lw=1.2, ls=(0, (5, 3)), zorder=1)
        beside.append((vendor, f"{percent(vendor)}\nvendor", VENDOR, "normal"))
    limit = 0.945 * top
    for score, text, colour, weight in sorted(beside, reverse=True):
        y = min(score, limit)
        limit = y - 0.125 * top
        _beside(axes, y, text, colour, weight)


def _beside(axes: Axes, y: float, text: str, colour: str, weight: str) -> None:
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center",
        color=colour, weight=weight, fontsize=11, linespacing=1.1, annotation_clip=False,
    )  # fmt: skip


def _band(
    figure: Figure, axes: Axes, labels: list[tuple[Landmark, str]], spots: list[Spot], low: float, high: float,
    height: float,
) -> None:  # fmt: skip
    """Landmarks above the plot, each with a leader down to its point: nothing else is ever drawn up there."""
    base = axes.get_position().y1 * height
    scale = PLOT / axes.get_ylim()[1]
    for (mark, _), spot in zip(labels, spots, strict=True):
        x = LEFT + (mark.n - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        bottom, top = base - PLOT + mark.score * scale, base + spot.lane * LANE + 0.03
        figure.add_artist(_line((x / WIDTH, x / WIDTH), (bottom / height, top / height), figure))
        # Two texts: in a line of its own, a script that runs from right to left would take the number with it.
        y = (base + spot.lane * LANE + 0.06) / height
        figure.text((LEFT + spot.left) / WIDTH, y, _words(mark), fontsize=11)
        figure.text((LEFT + spot.right) / WIDTH, y, percent(mark.score), fontsize=11, ha="right")


def _line(xs: tuple[float, float], ys: tuple[float, float], figure: Figure) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(xs, ys, transform=figure.transFigure, color=FAINT, lw=0.8, zorder=0.5)


def _failures(axes: Axes, rows: Rows, failed: list[str]) -> None:
    """A row below the plot for every way to fail: no score, so no height."""
    for y, status in enumerate(reversed(failed)):
        mark = MARKS[status]
        xs = [row.n for row in rows.submissions if row.status == status]
        axes.scatter(xs, [y] * len(xs), s=34 if len(xs) <= 100 else 16, c=mark.colour, marker=mark.shape, clip_on=False)
    axes.set_ylim(-0.6, len(failed) - 0.4)
    axes.set_yticks(
        range(len(failed)), [f"{MARKS[status].word} {rows.statuses[status]:,}" for status in reversed(failed)]
    )
    axes.tick_params(axis="y", length=0, labelsize=11)
    for tick, status in zip(axes.get_yticklabels(), reversed(failed), strict=True):
        tick.set_color(MARKS[status].colour)


def shares(axes: Axes) -> None:
    """Lines at round shares of y, which runs from 0; each stands exactly where its label says."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    top = axes.get_ylim()[1]
    # Ten steps at most, of 1, 2 or 5 units: with these decimals a label has no more digits than its step.
    decimals = 0 if top > 0.06 else 1 if top > 0.006 else 2
    axes.yaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _axes_text(axes: Axes, lowest: Axes, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    shares(axes)
    axes.set_ylabel(unit(rows))
    axes.yaxis.set_label_coords((0.22 - LEFT) / (WIDTH - LEFT - RIGHT), 0.5)
    count = max(len(rows.submissions), 1)
    ticks = MaxNLocator(integer=True, nbins=10, min_n_ticks=1).tick_values(1, count)
    lowest.set_xticks([n for n in map(int, ticks) if 1 <= n <= count])
    lowest.set_xlabel("submission", loc="left")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(
            handles, labels, loc="lower right", bbox_to_anchor=(1 - RIGHT / WIDTH, 0.005), ncols=len(handles),
            frameon=False, fontsize=11, handletextpad=0.4, columnspacing=1.4, borderpad=0,
            markerscale=max(1.0, (50 / _size(rows)) ** 0.5),
        )  # fmt: skip


def _header(figure: Figure, rows: Rows, height: float) -> None:
    def y(inches: float) -> float:
        return 1 - inches / height

    figure.text(0.02, y(0.36), line(f"{rows.task} on {rows.target_name}", 46), fontsize=17, weight="bold")
    figure.text(0.02, y(0.66), line(_subtitle(rows), 68), fontsize=12, color=FAINT)
    word, meaning, fill, ink = BADGES.get(rows.evidence or "", ("NO SCORE", "nothing has passed yet", "#eaeef2", INK))
    figure.text(
        1 - 0.02, y(0.34), word, fontsize=17, weight="bold", ha="right", color=ink,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": fill, "edgecolor": ink},
    )  # fmt: skip
    if rows.verified:
        meaning = f"verified with {rows.behind} a shape"
    figure.text(1 - 0.02, y(0.69), meaning, fontsize=11, ha="right", color=ink)


def _subtitle(rows: Rows) -> str:
    parts = [counted(len(rows.submissions), "submission"), rows.id]
    if rows.first is not None and rows.best is not None:
        story = percent(rows.best.score)
        if rows.first.n != rows.best.n:
            story = f"{percent(rows.first.score)} → {story}"
        if rows.factor and rows.factor > 1:
            story += f" ({rows.factor:.1f}x)"
        parts.insert(0, story)
    return " · ".join(parts)
