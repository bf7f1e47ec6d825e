"""Stage "predict": modelled time of every timing shape, from traced kernels and counted work."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.evaluate import hooks
from kopt.evaluate.hearsay import Nonsense, items, table, text, understood
from kopt.evaluate.predict.constants import calibrated, constants
from kopt.evaluate.predict.counted import CountedLaunch
from kopt.evaluate.predict.counting import LATE, Counting
from kopt.evaluate.predict.estimate import Call, blocks, estimate, guess
from kopt.evaluate.predict.work import in_full, shortfall
from kopt.evaluate.recipe import Recipe
from kopt.evaluate.stage import Case, Earlier
from kopt.evaluate.steering import Steering
from kopt.records import Finding, KernelFacts, LaunchFacts, Outcome, Prediction, StageResult, digest

if TYPE_CHECKING:
    from kopt.evaluate.workers import Reply, Workers

DEADLINE = 200.0
"""Seconds for counting all timing shapes of a candidate. Most need one; an index that is built on the way, thirty."""
_REMEMBERED = 20_000
"""Launches whose counts are kept."""
_LAUNCHES = 20_000
"""Of one call; no more are recorded."""


@dataclass(frozen=True)
class _Traced:
    """What the trace stage left in memory."""

    kernels: Mapping[str, KernelFacts]
    calls: Mapping[str, Sequence[LaunchFacts]]
    eager: Mapping[str, tuple[int, int]]
    """By shape: ATen operations that move something, and their bytes."""
    recipes: Mapping[str, Recipe]
    aten: Mapping[str, Mapping[str, int]]
    """By shape: how often each ATen operation is called."""


class Predict:
    """The stage. Thread-safe; counts are remembered by what they depend on, which warps and stages are not part of."""

    name = "predict"

    def __init__(
        self,
        workers: Workers,
        store: Path,
        deadline: float = DEADLINE,
        steering: Steering | None = None,
        *,
        judged: bool = False,
    ) -> None:
        """`store` is a folder for the jobs' own folders; `steering` may be shared with other stages. `judged`: what
        passes is measured afterwards, and its outputs compared.
        """
        self._judged = judged
        self._workers = workers
        self._store = store
        self._deadline = deadline
        self._counts: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._steering = steering or Steering(workers, store)

    def run(self, case: Case, earlier: Earlier) -> StageResult:
        started = time.perf_counter()
        k = constants(case.target)
        if k is None:
            return self._unavailable(started, f"no model of compute capability {case.target.arch / 10:.1f}")
        traced = _traced(earlier)
        counted, why, notes = self._count(case, traced)
        predictions: list[Prediction] = []
        missing: dict[str, str] = {}
        findings: list[Finding] = []
        for shape in case.task.timing:
            cost = hooks.cost(case.task, shape)
            call = Call(
                shape.name, cost, case.task.score.peak, traced.calls.get(shape.name, ()), traced.kernels,
                traced.eager.get(shape.name, (0, 0)), blocks(traced.recipes.get(shape.name), case.task),
            )  # fmt: skip
            launches = counted.get(shape.name)
            if launches is not None:
                short = shortfall(
                    case.task, shape, cost, launches, traced.aten.get(shape.name, ()), call.eager[1],
                    compared=self._judged,
                )  # fmt: skip
                findings += [short.finding] if short else []
                if short and (short.finding.status or not short.pace):
                    continue  # it would be the time of something else
                try:
                    found = estimate(call, launches, case.target, k, calibrated(case.target))
                    predictions.append(in_full(found, short.pace) if short and short.pace < 1 else found)
                except (ArithmeticError, ValueError) as error:  # counts of the right form that nothing can have
                    missing[shape.name] = f"no time follows from its counts ({type(error).__name__})"
            elif (rough := guess(call, case.target, k, why.get(shape.name, "it was not counted"))) is not None:
                predictions.append(rough)
            else:
                missing[shape.name] = why.get(shape.name, "it was not counted")
        findings += [
            Finding(rule="predict.unavailable", message=f"no prediction: {reason}", shape=name)
            for name, reason in missing.items()
        ]
        findings += [Finding(rule="predict.note", message=note) for note in notes]
        outcome = Outcome.UNAVAILABLE if missing else Outcome.PASSED
        if any(finding.status for finding in findings):
            outcome = Outcome.FAILED
        return StageResult(
            stage=self.name,
            outcome=outcome,
            facts={"counted": {name: [launch.facts() for launch in found] for name, found in counted.items()}},
            findings=tuple(findings),
            seconds=time.perf_counter() - started,
            artifacts={"predictions": tuple(predictions), "counted": counted},
        )

    def _count(
        self, case: Case, traced: _Traced
    ) -> tuple[dict[str, tuple[CountedLaunch, ...]], dict[str, str], list[str]]:
        """Counted launches by shape, why there are none for the others, and what is worth knowing."""
        source = digest(case.source)
        kernels = {
            kernel.name: {"occupancy": kernel.occupancy, "warps": kernel.warps, "stages": kernel.stages}
            for kernel in traced.kernels.values()
        }
        counting = Counting(
            self._workers, self._store, self._steering, case, kernels, lambda key: self._known(source, key)
        )
        counted: dict[str, tuple[CountedLaunch, ...]] = {}
        why = {shape.name: LATE for shape in case.task.timing}
        notes: dict[str, None] = {}
        for shares, reply in counting.run(self._deadline, 0.6 * self._deadline):
            self._read(source, shares, reply, counted, why)
            found = reply.value.get("notes")
            notes |= dict.fromkeys(
                note[:300] for note in (found if isinstance(found, list) else ())[:8] if isinstance(note, str)
            )
        return counted, why, list(notes)[:8]

    def _read(
        self,
        source: str,
        names: Sequence[str],
        reply: Reply,
        counted: dict[str, tuple[CountedLaunch, ...]],
        why: dict[str, str],
    ) -> None:
        """What one job answered about the shapes that it was given."""
        for name in names:
            if not reply.ok:
                why[name] = reply.error or reply.outcome
                continue
            try:
                with understood():
                    answer = reply.value["shapes"][name]
                    if "error" in answer:
                        raise _Uncounted(text(answer["error"]))
                    counted[name] = tuple(self._launch(source, item) for item in items(answer["launches"], _LAUNCHES))
            except _Uncounted as reason:
                why[name] = str(reason)
            except Nonsense as error:
                why[name] = f"unreadable counts ({error})"

    def _launch(self, source: str, item: Mapping[str, Any]) -> CountedLaunch:
        if "uncounted" in item:
            raise _Uncounted(
                f"{text(item['name'], 80)} is a {text(item['uncounted'], 40)} kernel, which is not counted"
            )
        counts, key = table(item["counts"]), text(item["key"], 200)
        launch = CountedLaunch(name=item["name"], grid=item["grid"], buffers=item["buffers"], **counts)
        with self._lock:
            if key and len(self._counts) < _REMEMBERED:
                self._counts[source, key] = counts
        return launch

    def _known(self, source: str, key: str) -> dict[str, Any] | None:
        with self._lock:
            return self._counts.get((source, key))

    def _unavailable(self, started: float, why: str) -> StageResult:
        finding = Finding(rule="predict.unavailable", message=f"no prediction: {why}")
        return StageResult(
            stage=self.name,
            outcome=Outcome.UNAVAILABLE,
            findings=(finding,),
            seconds=time.perf_counter() - started,
            artifacts={"predictions": ()},
        )


class _Uncounted(Nonsense):
    """The interpreter does not cover a launch."""


def _traced(earlier: Earlier) -> _Traced:
    trace = earlier.get("trace")
    artifacts, facts = (trace.artifacts, trace.facts) if trace else ({}, {})
    kinds: Any = (artifacts.get(kind, {}) for kind in ("kernels", "calls", "eager", "recipes"))
    found: Any = (*kinds, facts.get("aten", {}))
    return _Traced(*found)
