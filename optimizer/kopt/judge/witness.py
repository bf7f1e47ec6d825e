"""The device's own counters as a witness: what a kernel claims to compute, and what the tensor pipes were seen doing.

Counters come up to date about ten times a second, so the calls of a batch are made over and over for more than half a
second. Whatever a kernel does to its own host code or to a clock, it does nothing to these.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from kopt.judge import protocol
from kopt.judge.arms import Arm
from kopt.judge.backends import Activity, JudgeSide
from kopt.judge.batches import Batches
from kopt.judge.series import GRAIN_US, Series
from kopt.machine.products import Product
from kopt.records import Cost, Finding, Status

LOAD_S = 0.75
"""Of calls; less than two marks of the counters lie in less."""
_FEWEST_S = 0.55
_DOUBTFUL = 1.15
_IMPOSSIBLE = 1.25
"""Times what the pipes can have done at the highest clock there is, in the time in which they were seen at work."""
_VECTOR = 256
"""FLOPs a clock and SM outside of the tensor pipes, float32."""


def look(
    backend: JudgeSide,
    batches: Batches,
    arm: Arm,
    series: Series,
    us: float,
    cost: Cost,
    kind: str,
    product: Product | None,
) -> tuple[dict[str, Any], Finding | None]:
    """Facts of one shape, and what they call for. `us` is the time of a call as measured, `kind` that of its FLOPs."""
    deck = arm.deck
    assert deck is not None
    calls = deck.deal(min(series.sizes.slots, 64))
    repeat = math.ceil(LOAD_S * 1e6 / us / len(calls))
    if not batches.captured:
        repeat = min(repeat, protocol.RING_CALLS // len(calls))
    if repeat * len(calls) * us < _FEWEST_S * 1e6:
        return {"reason": f"calls of {us:.1f} us are too short to fill {_FEWEST_S:g} s of a batch"}, None
    batch = batches.ask(arm, calls, look="slice", repeat=repeat, count=True)
    seen = backend.activity()
    if seen is None:
        return {"reason": "the device shows no activity counters"}, None
    claimed = cost.flops / max(GRAIN_US, series.per_call(batch)) / 1e6
    series.tensor_active = seen.tensor
    facts = {**asdict(seen), "tflops": claimed, "clock_mhz": batch.sample.clock_mhz}
    if product is None or seen.tensor is None:
        return facts, None
    return facts, judge(seen, claimed, batch.sample.clock_mhz, kind, product, series.shape.name)


def judge(
    seen: Activity, claimed: float, clock: float | None, kind: str, product: Product, shape: str
) -> Finding | None:
    """`claimed` TFLOPS against what the pipes can have done in the part of the time in which they were at work."""
    if seen.tensor is None or product.peak_at(kind, product.max_clock_mhz) is None:
        return None

    def most(mhz: float) -> float:
        return (seen.tensor or 0.0) * (product.peak_at(kind, mhz) or 0.0) + product.sms * _VECTOR * mhz / 1e6

    at_most, likely = most(product.max_clock_mhz), most(clock or product.max_clock_mhz)
    told = f"{claimed:.0f} TFLOPS claimed, but the tensor pipes were at work {100 * seen.tensor:.0f} % of the time"
    if claimed > _IMPOSSIBLE * at_most:
        message = f"{told}: {at_most:.0f} TFLOPS at the highest clock"
        return Finding(rule="judge.activity", message=message, status=Status.REJECTED, shape=shape)
    if claimed > _DOUBTFUL * likely:
        at = f"{clock:.0f} MHz" if clock else "the highest clock"
        return Finding(rule="judge.activity", message=f"{told}: {likely:.0f} TFLOPS at {at}", shape=shape)
    return None
