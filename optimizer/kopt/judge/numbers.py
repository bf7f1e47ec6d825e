"""From batches to a measurement: what is reported of one shape in one regime, each number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kopt.judge.plan import Regime
from kopt.judge.series import Series
from kopt.judge.sizing import floor_us
from kopt.judge.statistics import middle, ratio
from kopt.machine.products import Product
from kopt.records import Cost, Finding, Measurement, Quantity, Shape, Status, Task

CLOCK_S = 0.5
"""Seconds of load after which the clock that NVML publishes is that of the load."""


def measurement(
    task: Task,
    series: Series,
    regime: Regime,
    cost: Cost,
    product: Product | None,
    *,
    against_baseline: bool,
    warnings: tuple[str, ...],
) -> Measurement:
    """`product` is None where times are not to be held against a peak."""
    host, clock = middle(series.host), _median([s.clock_mhz for s in series.samples])
    sheet = product.peak(task.score.peak) if product else None
    # NVML publishes averages: a burst is over before its clock is known.
    known = bool(series.samples) and min(s.load_s for s in series.samples) >= CLOCK_S
    at_clock = product.peak_at(task.score.peak, clock) if product and clock and known else None
    roof = None
    if product is not None:
        bytes_us = (cost.read + cost.written) / (product.hbm_tbs * 1e6)
        roof = max(cost.flops / (sheet * 1e6) if sheet else 0.0, bytes_us)
    return Measurement(
        shape=series.shape.name,
        regime=regime,
        host_us=host,
        device_us=middle(series.device) if series.device else None,
        utilization=_over(cost.flops / 1e6 / sheet, host) if sheet else None,
        utilization_at_clock=_over(cost.flops / 1e6 / at_clock, host) if at_clock else None,
        roofline=_over(roof, host) if roof else None,
        baseline_ratio=_inverse(ratio(series.logs)) if series.logs and against_baseline else None,
        clock_mhz=clock,
        power_w=_median([s.power_w for s in series.samples]),
        temperature_c=_median([s.temperature_c for s in series.samples]),
        tensor_active=series.tensor_active,
        throttle=tuple(sorted({reason for s in series.samples for reason in s.throttle})),
        calls=series.calls,
        warnings=warnings,
    )


def impossible(us: float, cost: Cost, product: Product, task: Task, shape: Shape) -> Finding | None:
    """Nothing is faster than the device: such a time means that the work was not done when it was asked for."""
    floor = floor_us(cost, product, task.score.peak)
    if us >= floor:
        return None
    return Finding(
        rule="judge.physics",
        message=f"{us:.2f} us per call, but the device needs {floor:.2f} us at its highest clock",
        status=Status.REJECTED,
        shape=shape.name,
        got=f"{us:.3f} us",
        bound=f"{floor:.3f} us",
    )


def _over(numerator: float, us: Quantity) -> Quantity:
    """numerator / us, with the interval's ends swapped."""
    return Quantity(
        value=numerator / us.value,
        low=numerator / us.high if us.high else None,
        high=numerator / us.low if us.low else None,
    )


def _inverse(value: Quantity) -> Quantity:
    return Quantity(
        value=1 / value.value, low=1 / value.high if value.high else None, high=1 / value.low if value.low else None
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None
