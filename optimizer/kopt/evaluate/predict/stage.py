"""Stage "predict": modelled time of every timing shape, from traced kernels and counted work."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kopt.evaluate import hooks
from kopt.evaluate.predict.constants import calibrated, constants
from kopt.evaluate.predict.counted import CountedLaunch
from kopt.evaluate.predict.estimate import Call, blocks, estimate, guess
from kopt.evaluate.recipe import Recipe
from kopt.evaluate.stage import Case, Earlier
from kopt.evaluate.steering import Steering
from kopt.evaluate.tensors import layout
from kopt.records import Finding, KernelFacts, LaunchFacts, Outcome, Prediction, Shape, StageResult, Task

if TYPE_CHECKING:
    from kopt.evaluate.workers import Reply, Workers

DEADLINE = 200.0
"""Seconds for counting all timing shapes of a candidate. Most need one; an index that is built on the way, thirty."""
LAUNCH_SECONDS = 4.0
"""Seconds after which one launch is not sampled further."""
_FILE = "candidate.py"
_REMEMBERED = 20_000
"""Launches whose counts are kept."""


@dataclass(frozen=True)
class _Traced:
    """What the trace stage left in memory."""

    kernels: Mapping[str, KernelFacts]
    calls: Mapping[str, Sequence[LaunchFacts]]
    eager: Mapping[str, tuple[int, int]]
    """By shape: ATen operations that move something, and their bytes."""
    recipes: Mapping[str, Recipe]


class Predict:
    """The stage. Thread-safe; counts are remembered by what they depend on, which warps and stages are not part of."""

    name = "predict"

    def __init__(
        self, workers: Workers, store: Path, deadline: float = DEADLINE, steering: Steering | None = None
    ) -> None:
        """`store` is a folder for the jobs' own folders; `steering` may be shared with other stages."""
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
        for shape in case.task.timing:
            cost = hooks.cost(case.task, shape)
            call = Call(
                shape.name, cost, case.task.score.peak, traced.calls.get(shape.name, ()), traced.kernels,
                traced.eager.get(shape.name, (0, 0)), blocks(traced.recipes.get(shape.name), case.task),
            )  # fmt: skip
            launches = counted.get(shape.name)
            if launches is not None:
                predictions.append(estimate(call, launches, case.target, k, calibrated(case.target)))
            elif (rough := guess(call, case.target, k, why.get(shape.name, "it was not counted"))) is not None:
                predictions.append(rough)
            else:
                missing[shape.name] = why.get(shape.name, "it was not counted")
        findings = [
            Finding(rule="predict.unavailable", message=f"no prediction: {reason}", shape=name)
            for name, reason in missing.items()
        ]
        findings += [Finding(rule="predict.note", message=note) for note in notes]
        return StageResult(
            stage=self.name,
            outcome=Outcome.UNAVAILABLE if missing else Outcome.PASSED,
            facts={"counted": {name: [launch.facts() for launch in found] for name, found in counted.items()}},
            findings=tuple(findings),
            seconds=time.perf_counter() - started,
            artifacts={"predictions": tuple(predictions), "counted": counted},
        )

    def _count(
        self, case: Case, traced: _Traced
    ) -> tuple[dict[str, tuple[CountedLaunch, ...]], dict[str, str], list[str]]:
        """Counted launches by shape, why there are none for the others, and what is worth knowing."""
        folder = Path(tempfile.mkdtemp(prefix="count-", dir=self._store))
        source = hashlib.sha256(case.source.encode()).hexdigest()
        try:
            (folder / _FILE).write_text(case.source, encoding="utf-8")
            reply = self._workers.run(
                "interpret",
                "kopt.evaluate.worker.count:run",
                {
                    "file": _FILE,
                    "entry": case.task.entry,
                    "parameters": dict(case.parameters),
                    "target": asdict(case.target),
                    "kernels": {
                        kernel.name: {"occupancy": kernel.occupancy, "warps": kernel.warps, "stages": kernel.stages}
                        for kernel in traced.kernels.values()
                    },
                    "seconds": LAUNCH_SECONDS,
                    "wall": 0.6 * self._deadline,
                    "shapes": [self._shape(case, shape, folder) for shape in case.task.timing],
                },
                folder=folder,
                deadline=self._deadline,
                on_ask=lambda question: {"counts": self._known(source, question)},
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._read(case.task, source, reply)

    def _read(
        self, task: Task, source: str, reply: Reply
    ) -> tuple[dict[str, tuple[CountedLaunch, ...]], dict[str, str], list[str]]:
        if not reply.ok:
            return {}, {shape.name: reply.error or reply.outcome for shape in task.timing}, []
        counted: dict[str, tuple[CountedLaunch, ...]] = {}
        why: dict[str, str] = {}
        shapes = reply.value.get("shapes")
        for shape in task.timing:
            answer = shapes.get(shape.name) if isinstance(shapes, dict) else None
            if not isinstance(answer, dict) or not isinstance(answer.get("launches"), list):
                why[shape.name] = str(answer.get("error", "no counts") if isinstance(answer, dict) else "no counts")[
                    :300
                ]
                continue
            try:
                counted[shape.name] = tuple(self._launch(source, item) for item in answer["launches"])
            except _Uncounted as reason:
                why[shape.name] = str(reason)
            except (ValidationError, TypeError, KeyError) as error:
                why[shape.name] = f"unreadable counts: {' '.join(str(error).split())[:200]}"
        notes = reply.value.get("notes")
        return counted, why, [str(note)[:300] for note in notes][:8] if isinstance(notes, list) else []

    def _launch(self, source: str, item: Mapping[str, Any]) -> CountedLaunch:
        if "uncounted" in item:
            raise _Uncounted(
                f"{str(item['name'])[:80]} is a {str(item['uncounted'])[:40]} kernel, which is not counted"
            )
        counts = dict(item["counts"])
        launch = CountedLaunch(name=item["name"], grid=item["grid"], buffers=item["buffers"], **counts)
        with self._lock:
            if item["key"] and len(self._counts) < _REMEMBERED:
                self._counts[source, str(item["key"])] = counts
        return launch

    def _known(self, source: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
        with self._lock:
            return self._counts.get((source, str(question.get("known"))))

    def _shape(self, case: Case, shape: Shape, folder: Path) -> dict[str, Any]:
        """One shape as the job wants it, with files for the tensors whose values can steer a kernel."""
        specs = (*case.task.inputs, *case.task.outputs)
        return {
            "name": shape.name,
            "tensors": layout(specs, shape.dims),
            "values": self._steering.put(folder, case.task, shape, case.seed),
        }

    def _unavailable(self, started: float, why: str) -> StageResult:
        finding = Finding(rule="predict.unavailable", message=f"no prediction: {why}")
        return StageResult(
            stage=self.name,
            outcome=Outcome.UNAVAILABLE,
            findings=(finding,),
            seconds=time.perf_counter() - started,
            artifacts={"predictions": ()},
        )


class _Uncounted(Exception):
    """The interpreter does not cover a launch."""


def _traced(earlier: Earlier) -> _Traced:
    artifacts = earlier["trace"].artifacts if "trace" in earlier else {}
    kinds: Any = (artifacts.get(kind, {}) for kind in ("kernels", "calls", "eager", "recipes"))
    return _Traced(*kinds)
