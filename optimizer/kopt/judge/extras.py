"""Beside the quads. Once per shape: time without host code, the same calls twice, whether their price varies.
Of every process: whether it is as exact as the vendor library, and no faster than the device."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from statistics import median

from kopt.evaluate import hooks as task_hooks
from kopt.judge.accuracy import Errors, imprecise
from kopt.judge.agreement import agreement
from kopt.judge.arms import Arm
from kopt.judge.backends import JudgeSide
from kopt.judge.batches import Batches
from kopt.judge.crew import Rejected
from kopt.judge.deck import Call
from kopt.judge.numbers import impossible
from kopt.judge.plan import Plan, Regime
from kopt.judge.runners import Mode
from kopt.judge.series import Series
from kopt.machine.products import Product
from kopt.records import NO_DEVICE_TIME, Shape, Task

_GRAPHS = 3
_CALLS = 2
"""That are made twice."""
_COLD = 2
"""Times the cache: what operands that return are read from memory again."""
# Relative RMS error of rounding to a dtype: half a unit in the last place, evenly spread, of a number drawn evenly.
ROUNDING = {"float64": 6e-17, "float32": 3e-8, "float16": 2e-4, "bfloat16": 1.7e-3, "float8_e4m3fn": 2.7e-2,
            "float8_e5m2": 5.4e-2}  # fmt: skip


class Extras:
    """What a plan asks for besides quads."""

    def __init__(
        self,
        task: Task,
        batches: Batches,
        regime: Regime,
        plan: Plan,
        product: Product | None,
        known: MutableMapping[str, Errors],
        backend: JudgeSide,
    ) -> None:
        """`known` has the vendor library's own errors by shape, as far as they have been measured."""
        self._known = known
        self._task, self._batches, self._regime, self._plan = task, batches, regime, plan
        self._product, self._measures, self._cache_bytes = product, backend.measures, backend.cache_bytes

    def learn(self, vendor: Arm, shape: Shape) -> None:
        """Take note of the vendor library's own error, from what it wrote since it was set up for this shape."""
        if vendor.errors.whole is not None:
            self._known.setdefault(shape.model_dump_json(), vendor.errors)

    def curious(self, shape: Shape) -> bool:
        """Whether the vendor library's own error at this shape is wanted and not known yet."""
        return self._plan.accuracy and shape.model_dump_json() not in self._known

    def hold(self, shape: Shape, candidate: Arm, times: Sequence[float]) -> None:
        """To what every process of a kernel is held at every shape: the vendor library's exactness, as far as it is
        known, and the device's speed. Rejected. `times` are microseconds per call.
        """
        deck, vendor = candidate.deck, self._known.get(shape.model_dump_json())
        assert deck is not None
        if self._plan.accuracy and vendor is not None:
            unit = max(ROUNDING.get(spec.dtype, 0.0) for spec in self._task.outputs)
            elements = min(out[0].numel() for out in deck.outputs.values())
            for found in imprecise(shape, candidate.errors, vendor, unit, elements):
                raise Rejected(found)
        if self._measures and self._product is not None and times:
            cost = task_hooks.cost(self._task, shape)
            if finding := impossible(median(times), cost, self._product, self._task, shape):
                raise Rejected(finding)

    def look(self, shape: Shape, series: Series, candidate: Arm, calls: int, *, replayed: bool = False) -> None:
        """Add what is found to the series, with so many calls a batch; Rejected for what cannot stand.

        `replayed`: its time without host code is found by a replayer.
        """
        if self._plan.graph and self._measures and not replayed and self._task.score.launch != "graph":
            self._graph(series, candidate, calls)
        assert candidate.deck is not None
        if self._plan.accuracy and candidate.deck.own_check is None:
            self._determinism(series, candidate)
        if self._measures and self._plan.agreement and self._regime == "burst":
            self._agreement(shape, series, candidate, calls)

    def _graph(self, series: Series, candidate: Arm, calls: int) -> None:
        deck = candidate.deck
        assert deck is not None
        for _ in range(_GRAPHS):
            us = self._timed(series, candidate, deck.deal(calls), mode="graph")
            if us is None:
                why = f" ({candidate.runner.refusal})" if candidate.runner.refusal else ""
                series.warnings.append(f"{NO_DEVICE_TIME}: the call cannot be captured in a CUDA graph{why}")
                break
            series.device.append(us)

    def _agreement(self, shape: Shape, series: Series, candidate: Arm, calls: int) -> None:
        deck = candidate.deck
        assert deck is not None

        def timed(calls: Sequence[Call]) -> float:
            us = self._timed(series, candidate, calls)
            assert us is not None
            return us

        # By what calls read: of what they are given, sparse ones leave most alone.
        read = max(1.0, task_hooks.cost(self._task, shape).read)
        for found in agreement(shape, deck, calls, timed, math.ceil(_COLD * self._cache_bytes / read)):
            if found.status:
                raise Rejected(found)
            series.warnings.append(found.message)

    def _timed(self, series: Series, arm: Arm, calls: Sequence[Call], mode: Mode | None = None) -> float | None:
        """Microseconds per call of a batch that took any; None where it cannot be captured in a graph as wished."""
        while True:
            batch = self._batches.ask(arm, calls, mode=mode, rest=True, look="slices")
            if batch.calls == 0:
                return None
            if (us := series.per_call(batch)) > 0:
                return us
            series.discard(arm.label)

    def _determinism(self, series: Series, candidate: Arm) -> None:
        assert candidate.deck is not None
        calls = candidate.deck.deal(_CALLS)
        first = self._batches.ask(candidate, calls, look="slices")
        second = self._batches.ask(candidate, calls, like=first, look="slices")
        assert first.found is not None
        assert second.found is not None
        if not first.found.same(second.found, len(calls)):
            series.warnings.append("the same inputs gave different outputs, all within the bound")
