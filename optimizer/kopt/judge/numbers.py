"""From batches to a measurement: what is reported of one shape in one regime, each number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kopt.judge.arms import Batch
from kopt.judge.backends import Sample
from kopt.judge.plan import Regime
from kopt.judge.sizing import floor_us
from kopt.judge.statistics import middle, ratio
from kopt.machine.products import Product
from kopt.records import Cost, Finding, Measurement, Quantity, Shape, Status, Task


def per_call(batch: Batch, null: float) -> float:
    """Microseconds per call: the batch less a null batch. Never below the clock's grain."""
    return max(1e-3, (batch.us - null) / batch.calls)


def measurement(
    task: Task,
    shape: Shape,
    regime: Regime,
    host: Sequence[float],
    device: Sequence[float],
    logs: Sequence[float],
    samples: Sequence[Sample],
    *,
    cost: Cost,
    product: Product | None,
    measures: bool,
    calls: int,
    warnings: tuple[str, ...],
) -> Measurement:
    """`host` and `device` are microseconds per call, one per batch; `logs` are log(candidate / rival), one per quad."""
    host_us = middle(host)
    peak = product.peak(task.score.peak) if product and measures else None
    clock = _median([s.clock_mhz for s in samples])
    # NVML averages over a second or so: a burst is over before its clock is known.
    at_clock = (
        product.peak_at(task.score.peak, clock) if product and measures and clock and regime == "sustained" else None
    )
    roof = None
    if product is not None and measures:
        sheet = product.peak(task.score.peak)
        compute = cost.flops / (sheet * 1e6) if sheet else 0.0
        roof = max(compute, (cost.read + cost.written) / (product.hbm_tbs * 1e6))
    seen = [s.throttle for s in samples]
    return Measurement(
        shape=shape.name,
        regime=regime,
        host_us=host_us,
        device_us=middle(device) if device else None,
        utilization=_over(cost.flops / 1e6 / peak, host_us) if peak else None,
        utilization_at_clock=_over(cost.flops / 1e6 / at_clock, host_us) if at_clock else None,
        roofline=_over(roof, host_us) if roof else None,
        baseline_ratio=_inverse(ratio(logs)) if logs else None,
        clock_mhz=clock,
        power_w=_median([s.power_w for s in samples]),
        temperature_c=_median([s.temperature_c for s in samples]),
        throttle=tuple(sorted({reason for reasons in seen for reason in reasons})),
        calls=calls,
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
