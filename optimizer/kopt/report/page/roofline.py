"""The roofline of a run's GPU, with every landmark's shapes below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kopt.errors import UsageError
from kopt.machine.products import Product, product
from kopt.records import Verdict
from kopt.report.page.scale import Axis, Tick, decades, short
from kopt.report.page.shapes import shape_rows
from kopt.report.rows import Landmark
from kopt.report.task import About
from kopt.text import line

HEIGHT = 260


class Dot(NamedTuple):
    """One shape at one landmark; `step` numbers the landmarks from 1."""

    n: int
    step: int
    x: float
    y: float
    title: str


class Step(NamedTuple):
    """A landmark in the legend."""

    n: int
    step: int
    words: str


class Roofline(NamedTuple):
    height: float
    name: str
    peak: str
    bandwidth: str
    path: str
    """The roof, in a box 1000 wide."""
    xticks: list[Tick]
    yticks: list[Tick]
    dots: list[Dot]
    steps: list[Step]
    shapes: list[str]
    """Names of the shapes, from left to right."""


def roofline(
    target: str, landmarks: Sequence[tuple[Landmark, Verdict | None]], about: About, evidence: str | None
) -> Roofline | None:
    """None when the product's peak, or the work of the task's shapes, is unknown."""
    gpu = _product(target)
    if gpu is None or not about.costs:
        return None
    peak = gpu.peak(about.peak)
    if peak is None:
        return None
    found = [
        (step, mark, row.shape, cost.flops / (cost.read + cost.written), row.tflops.value)
        for step, (mark, verdict) in enumerate(landmarks, 1)
        for row in shape_rows(verdict, about)
        if row.regime in ("", "burst")
        and row.tflops is not None
        and (cost := about.costs[row.shape]).read + cost.written > 0
    ]
    if not found:
        return None
    ridge = peak / gpu.hbm_tbs
    intensities = [intensity for _, _, _, intensity, _ in found]
    x = Axis(min(*intensities, ridge) / 2, max(*intensities, ridge) * 2, 100, log=True)
    y = Axis(min(rate for *_, rate in found) / 1.6, peak * 1.5, HEIGHT, log=True)
    # Where the sloping roof leaves the plot: at the left edge or at the bottom.
    start = max(x.low, y.low / gpu.hbm_tbs)
    corners = [(start, start * gpu.hbm_tbs), (ridge, peak), (x.high, peak)]
    path = "M" + "L".join(f"{round(10 * x.at(a), 1):g} {y.down(b):g}" for a, b in corners)
    dots = [
        Dot(
            mark.n, step, x.at(a), y.down(b),
            f"#{mark.n} {line(mark.label, 40)}, {shape}: {evidence or ''} {short(round(b))} TFLOP/s",
        )
        for step, mark, shape, a, b in found
    ]  # fmt: skip
    names = {shape: a for _, _, shape, a, _ in found}
    return Roofline(
        HEIGHT, gpu.name, f"{short(peak)} TFLOP/s {about.peak}", f"{short(gpu.hbm_tbs)} TB/s", path,
        [Tick(x.at(v), short(v)) for v in decades(x.low, x.high)],
        [Tick(y.down(v), short(v)) for v in decades(y.low, y.high)],
        dots, [Step(mark.n, step, line(mark.label, 40)) for step, (mark, _) in enumerate(landmarks, 1)],
        sorted(names, key=lambda shape: names[shape]),
    )  # fmt: skip


def _product(target: str) -> Product | None:
    try:
        return product(target)
    except UsageError:
        return None
