"""A verdict by shape: times, rates and fractions, modelled or measured and never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import NamedTuple

from kopt.records import NO_DEVICE_TIME, Cost, Evidence, Measurement, Prediction, Quantity, Verdict
from kopt.report.ledger import scored
from kopt.report.task import About


class ShapeRow(NamedTuple):
    """One shape in one regime. Times are microseconds a call, rates are per second, fractions are of 1."""

    shape: str
    sizes: str
    regime: str
    """"" where nothing was measured."""
    host: Quantity
    """Time a call takes, that of the host's code included; the predicted time where nothing was measured."""
    device: Quantity | None
    no_device: str
    """Why there is no device-only time."""
    tflops: Quantity | None
    gbs: Quantity | None
    """Of the bytes that no kernel can avoid."""
    utilization: Quantity | None
    at_clock: Quantity | None
    roofline: Quantity | None
    baseline: Quantity | None
    """Baseline time over this time."""
    bound: str
    terms: str
    confidence: str
    warnings: str
    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    tensor_active: float | None = None
    throttle: str = ""


def shape_rows(verdict: Verdict | None, about: About) -> list[ShapeRow]:
    """The measurements of a verdict, else its predictions."""
    if verdict is None:
        return []
    if verdict.evidence is Evidence.MEASURED:
        predictions = {p.shape: p for p in verdict.predictions}
        return [_measured(m, predictions.get(m.shape), about) for m in verdict.measurements]
    return [_modelled(p, about) for p in verdict.predictions]


def vendor(verdict: Verdict | None, metric: str) -> float | None:
    """The library's score in the same run: the geometric mean over the scored shapes, or None if any has no ratio."""
    if verdict is None or verdict.evidence is not Evidence.MEASURED:
        return None
    logs = []
    for m in scored(verdict.measurements):
        value = m.roofline if metric == "roofline" else m.utilization
        if value is None or m.baseline_ratio is None or value.value <= 0 or m.baseline_ratio.value <= 0:
            return None
        logs.append(log(value.value / m.baseline_ratio.value))
    return exp(sum(logs) / len(logs)) if logs else None


def _measured(m: Measurement, p: Prediction | None, about: About) -> ShapeRow:
    cost = about.costs.get(m.shape)
    return ShapeRow(
        m.shape, _sizes(m.shape, about), m.regime, m.host_us, m.device_us, _no_device(m), *_rates(m.host_us, cost),
        m.utilization, m.utilization_at_clock, m.roofline, m.baseline_ratio,
        p.bound if p else "", _terms(p) if p else "", "", "; ".join(m.warnings),
        m.clock_mhz, m.power_w, m.temperature_c, m.tensor_active, ", ".join(m.throttle),
    )  # fmt: skip


def _modelled(p: Prediction, about: About) -> ShapeRow:
    us = Quantity(value=p.us)
    return ShapeRow(
        p.shape, _sizes(p.shape, about), "", us, None, "", *_rates(us, about.costs.get(p.shape)), _maybe(p.utilization),
        None, _maybe(p.roofline), None, p.bound, _terms(p), p.confidence, "; ".join(p.warnings),
    )  # fmt: skip


def _no_device(m: Measurement) -> str:
    if m.device_us is not None:
        return ""
    why = next((w for w in m.warnings if w.startswith(NO_DEVICE_TIME)), None)
    if why is None:
        return "not asked for"
    reason = why.removeprefix(NO_DEVICE_TIME).lstrip(": ")
    return reason if reason.startswith("not replayable") else f"not replayable: {reason}"


def _rates(us: Quantity, cost: Cost | None) -> tuple[Quantity | None, Quantity | None]:
    """TFLOP/s and GB/s."""
    if cost is None:
        return None, None
    return over(cost.flops / 1e6, us) if cost.flops else None, over((cost.read + cost.written) / 1e3, us)


def over(work: float, us: Quantity) -> Quantity:
    """work / us, with the interval's ends swapped."""
    return Quantity(
        value=work / us.value, low=work / us.high if us.high else None, high=work / us.low if us.low else None
    )


def _sizes(shape: str, about: About) -> str:
    known = about.shapes.get(shape)
    return ", ".join(f"{name} {size}" for name, size in known.dims.items()) if known else ""


def _terms(p: Prediction) -> str:
    largest: Sequence[tuple[str, float]] = sorted(p.terms.items(), key=lambda term: -term[1])[:4]
    return ", ".join(f"{name} {us:,.0f} us" for name, us in largest)


def _maybe(value: float | None) -> Quantity | None:
    return None if value is None else Quantity(value=value)
