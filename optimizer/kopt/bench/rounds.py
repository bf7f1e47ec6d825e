"""Measuring them in turns: every kernel once a round, each time in ABBA quads with the vendor library.

The device drifts over minutes. Whatever it does in one round it does to all of them, and the ratio to the vendor
library is taken within seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from kopt.bench.entries import BASELINE, Entry
from kopt.evaluate import hooks
from kopt.evaluate.binaries import Made
from kopt.judge import Judge, Judgement, Plan
from kopt.judge.plan import Regime
from kopt.judge.replay import Material
from kopt.judge.statistics import ratio
from kopt.machine.products import Product
from kopt.records import Measurement, Quantity, Shape, Status, Task


class Row(NamedTuple):
    """One kernel at one shape. Numbers are None where they are unknown or would mean nothing."""

    kernel: str
    shape: str
    status: str
    us: Quantity | None = None
    """Host-inclusive microseconds per call."""
    device_us: float | None = None
    """Of the launches alone, without host code."""
    tflops: float | None = None
    gbs: float | None = None
    """Compulsory bytes over time."""
    utilization: float | None = None
    """Fraction of the data-sheet peak."""
    baseline: Quantity | None = None
    """The vendor library's time over this kernel's: above 1 it is faster."""
    clock_mhz: float | None = None
    power_w: float | None = None
    remarks: tuple[str, ...] = ()


def bench(
    judge: Judge,
    task: Task,
    contestants: Sequence[Entry],
    shapes: Sequence[Shape],
    regime: Regime,
    plan: Plan,
    rounds: int,
    on_step: Callable[[int, str], None] = lambda number, label: None,
    materials: Mapping[str, Material | None] | None = None,
    binaries: Mapping[str, Made] | None = None,
) -> list[Row]:
    """Rows by kernel and shape, the vendor library's last. A kernel that fails is left out of later rounds.

    `materials` are what traces recorded, by label: their launches are replayed for the time of the device alone.
    `binaries` are what they launch, by label.
    """
    judged: dict[str, list[Judgement]] = {c.label: [] for c in contestants}
    out = {c.label for c in contestants if c.refused}
    for number in range(rounds):
        # Forwards and backwards, so that nobody always follows the same kernel.
        for entry in contestants if number % 2 == 0 else reversed(contestants):
            if entry.label in out:
                continue
            on_step(number, entry.label)
            # The check shapes are for the source: once is enough, and every timed output is checked anyway.
            once = {"check": False, "graph": False, "agreement": False, "replay": False, "accuracy": False}
            step = plan if number == 0 else plan.model_copy(update=once)
            recorded = (materials or {}).get(entry.label)
            made = (binaries or {}).get(entry.label, Made(None, ()))
            found = judge.measure(
                entry.source, entry.parameters, shapes, regime, step,
                material=recorded, binaries=made.cache, hidden=made.hidden,
            )  # fmt: skip
            judged[entry.label].append(found)
            if found.status is not Status.PASSED:
                out.add(entry.label)
    product = judge.target if judge.backend == "cuda" else None
    rows = [row for entry in contestants for row in _rows(task, entry, judged[entry.label], shapes, product)]
    every = [j for found in judged.values() for j in found]
    return rows + [row for shape in shapes if (row := _vendor(task, every, shape, product))]


def _rows(
    task: Task, entry: Entry, judged: Sequence[Judgement], shapes: Sequence[Shape], product: Product | None
) -> list[Row]:
    failed = next((j for j in judged if j.status is not Status.PASSED), None)
    if entry.refused or failed:
        finding = entry.refused or (failed.findings[-1] if failed else None)
        status = str((finding.status if finding and finding.status else None) or (failed.status if failed else ""))
        return [Row(entry.label, shape.name, status, remarks=(str(finding),)) for shape in shapes]
    rows = []
    for shape in shapes:
        found = [m for j in judged for m in j.measurements if m.shape == shape.name]
        logs = [log for j in judged for log in j.quads.get(shape.name, ())]
        device = [m.device_us.value for m in found if m.device_us]
        rows.append(_row(task, shape, product, entry.label, _together(found))._replace(
            device_us=median(device) if device else None,
            baseline=_inverse(ratio(logs)) if logs else None,
            clock_mhz=_middle([m.clock_mhz for m in found]),
            power_w=_middle([m.power_w for m in found]),
            remarks=tuple(dict.fromkeys(w for m in found for w in (*m.throttle, *m.warnings))),
        ))  # fmt: skip
    return rows


def _vendor(task: Task, judged: Sequence[Judgement], shape: Shape, product: Product | None) -> Row | None:
    """The vendor library as every kernel's opponent has seen it."""
    times = [j.facts.get("shapes", {}).get(shape.name, {}).get("opponent_us") for j in judged]
    known = sorted(us for us in times if us is not None)
    if not known:
        return None
    us = Quantity(value=median(known), low=known[0], high=known[-1])
    return _row(task, shape, product, BASELINE, us)._replace(baseline=Quantity(value=1.0))


def _row(task: Task, shape: Shape, product: Product | None, label: str, us: Quantity) -> Row:
    if product is None:
        return Row(label, shape.name, "passed", us)
    cost = hooks.cost(task, shape)
    peak = product.peak(task.score.peak)
    tflops = cost.flops / us.value / 1e6 if cost.flops else None
    return Row(
        label,
        shape.name,
        "passed",
        us,
        tflops=tflops,
        gbs=(cost.read + cost.written) / us.value / 1e3,
        utilization=tflops / peak if tflops and peak else None,
    )


def _together(found: Sequence[Measurement]) -> Quantity:
    """The middle of all rounds, and the widest interval that any of them left."""
    quantities = [m.host_us for m in found]
    lows = [q.low for q in quantities if q.low is not None]
    highs = [q.high for q in quantities if q.high is not None]
    return Quantity(
        value=median(q.value for q in quantities), low=min(lows, default=None), high=max(highs, default=None)
    )


def _inverse(value: Quantity) -> Quantity:
    return Quantity(
        value=1 / value.value, low=1 / value.high if value.high else None, high=1 / value.low if value.low else None
    )


def _middle(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None
