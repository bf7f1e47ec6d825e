"""Once per shape, beside the quads: time without host code, exactness, and whether the price depends on the asking."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from statistics import median

from kopt.evaluate import hooks as task_hooks
from kopt.judge.accuracy import accuracy
from kopt.judge.agreement import agreement
from kopt.judge.arms import Arm, Batch
from kopt.judge.backends import JudgeSide
from kopt.judge.batches import Batches
from kopt.judge.crew import TRUSTED, Rejected
from kopt.judge.deck import Call
from kopt.judge.numbers import impossible
from kopt.judge.plan import Plan, Regime
from kopt.judge.series import Series
from kopt.machine.products import Product
from kopt.records import NO_DEVICE_TIME, Shape, Task

_GRAPHS = 3
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
        known: MutableMapping[str, float],
        backend: JudgeSide,
    ) -> None:
        """`known` as in `accuracy`."""
        self._known = known
        self._task, self._batches, self._regime, self._plan = task, batches, regime, plan
        self._product, self._measures, self._cache_bytes = product, backend.measures, backend.cache_bytes

    def look(
        self, shape: Shape, series: Series, candidate: Arm, opponent: Arm | None, calls: int, *, replayed: bool = False
    ) -> None:
        """Add what is found to the series, with so many calls a batch; Rejected for what cannot stand.

        `replayed`: its time without host code is found by a replayer.
        """
        if self._plan.graph and self._measures and not replayed and self._task.score.launch != "graph":
            self._graph(series, candidate, calls)
        assert candidate.deck is not None
        if self._plan.accuracy and candidate.deck.own_check is None:
            self._accuracy(shape, series, candidate, opponent if opponent and opponent.label == TRUSTED else None)
        if not self._measures:
            return
        if self._plan.agreement and self._regime == "burst":
            self._agreement(shape, series, candidate, calls)
        if self._product is not None:
            cost = task_hooks.cost(self._task, shape)
            if finding := impossible(median(series.host), cost, self._product, self._task, shape):
                raise Rejected(finding)

    def _graph(self, series: Series, candidate: Arm, calls: int) -> None:
        deck = candidate.deck
        assert deck is not None
        for _ in range(_GRAPHS):
            batch = self._batches.ask(candidate, deck.deal(calls), mode="graph", rest=True, look="slices")
            if batch.calls == 0:
                series.warnings.append(f"{NO_DEVICE_TIME}: the call cannot be captured in a CUDA graph")
                break
            series.device.append(series.per_call(batch))

    def _agreement(self, shape: Shape, series: Series, candidate: Arm, calls: int) -> None:
        deck = candidate.deck
        assert deck is not None

        def timed(calls: Sequence[Call]) -> float:
            return series.per_call(self._batches.ask(candidate, calls, rest=True, look="slices"))

        # By what calls read: of what they are given, sparse ones leave most alone.
        read = max(1.0, task_hooks.cost(self._task, shape).read)
        for found in agreement(shape, deck, calls, timed, math.ceil(_COLD * self._cache_bytes / read)):
            if found.status:
                raise Rejected(found)
            series.warnings.append(found.message)

    def _accuracy(self, shape: Shape, series: Series, candidate: Arm, vendor: Arm | None) -> None:
        def ask(arm: Arm, calls: Sequence[Call], like: Batch | None) -> Batch:
            return self._batches.ask(arm, calls, like=like, look="slices" if like else "whole")

        unit = max(ROUNDING.get(spec.dtype, 0.0) for spec in self._task.outputs)
        for found in accuracy(shape, candidate, vendor, unit, ask, self._known):
            if found.status:
                raise Rejected(found)
            series.warnings.append(found.message)
