"""The figure of a comparison: best so far of several runs, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.report import figure as common
from kopt.report.comparison import Side
from kopt.report.page.scale import spread
from kopt.report.style import FAINT
from kopt.report.terminal import OF
from kopt.text import line, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "comparison"
COLOURS = ("#0072b2", "#b35900", "#00795a", "#a8437f", "#7a6a00", "#5b4ab8", "#59636e")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 10.0, 5.2, 0.85, 3.3, 0.75, 0.75
"""Inches."""
APART = 0.46
"""Inches between the texts beside the plot, of two lines each."""


def draw(sides: Sequence[Side], folder: Path) -> tuple[Path, Path]:
    """Write comparison.png and comparison.svg into `folder`, whole or not at all; HarnessError when it cannot."""
    return common.write(lambda: compose(sides), folder, NAME, salt=" ".join(s.rows.id for s in sides))


def compose(sides: Sequence[Side]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = max(HEIGHT, TOP + BOTTOM + APART * (len(sides) + 1))
    figure = Figure(figsize=(WIDTH, height), dpi=common.DPI)
    FigureCanvasAgg(figure)
    plot_height = height - TOP - BOTTOM
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, (WIDTH - LEFT - RIGHT) / WIDTH, plot_height / height))
    most = max([len(s.rows.submissions) for s in sides] + [2])
    top = 1.08 * max([row.best or 0.0 for s in sides for row in s.rows.submissions] + [0.01])
    axes.set_xlim(1, most)
    axes.set_ylim(0, top)
    ends = []
    for s, colour in zip(sides, _colours(len(sides)), strict=True):
        steps = [(row.n, row.best or 0.0) for row in s.rows.submissions if row.improved]
        style: Any = "-" if s.rows.evidence == "measured" else (0, (5, 2))
        if steps:
            xs, ys = [n for n, _ in steps], [best for _, best in steps]
            axes.step([*xs, len(s.rows.submissions)], [*ys, ys[-1]], where="post", color=colour, lw=2, ls=style)
        ends.append(steps[-1][1] / top * plot_height if steps else 0.0)
    places = spread([plot_height - end for end in ends], APART, 0.2, plot_height - 0.1)
    for s, colour, place in zip(sides, _colours(len(sides)), places, strict=True):
        best = f"{s.rows.evidence} {percent(s.rows.best.score)}" if s.rows.best else "no score"
        y = (BOTTOM + plot_height - place) / height
        figure.text((WIDTH - RIGHT + 0.15) / WIDTH, y, best, color=colour, weight="bold", fontsize=12, va="bottom")
        figure.text((WIDTH - RIGHT + 0.15) / WIDTH, y - 0.02 / height, line(s.rows.id, 34), fontsize=10, va="top")
    common.shares(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("submission", loc="left")
    kinds = "measured is drawn solid, modelled dashed"
    figure.text(0.02, 1 - 0.35 / height, f"Best so far, {OF.get(sides[0].rows.metric, '')}", fontsize=15, weight="bold")
    figure.text(0.02, 1 - 0.6 / height, kinds, fontsize=11, color=FAINT)
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
