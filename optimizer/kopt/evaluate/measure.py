"""Stage "measure": correctness at full size and the time on the device, by the judge. Absent where there is no GPU."""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kopt.errors import KoptError
from kopt.evaluate.binaries import Binaries, Made
from kopt.evaluate.stage import Case, Earlier
from kopt.judge import SCREENING, Judge, Plan, Rival
from kopt.judge.plan import Regime
from kopt.judge.replay import Material
from kopt.records import Finding, Outcome, StageResult, Status

TRIAL = SCREENING.model_copy(update={"check": False, "accuracy": False, "quads": 2, "replay": False})
"""For a parameter point: its source has passed the checks, and every timed output is checked anyway."""
GLANCE = TRIAL.model_copy(update={"quads": 1, "batch_us": 5_000.0, "rest": 0.0})
"""For all points of a batch, to see which are worth a `TRIAL`: good to about two per cent."""

_MOST_IMAGES = 16 << 20
"""Bytes of cubins: a kernel has about a tenth of one MiB."""

_PATIENCE = 20.0


class Measure:
    """The stage. Thread-safe: a device measures one thing at a time, whoever asks."""

    name = "measure"

    def __init__(self, judge: Judge, binaries: Binaries | None = None) -> None:
        """`binaries`, where there are any, are waited for before the device is."""
        self._judge, self._binaries = judge, binaries
        self._lock, self._closed = threading.Lock(), False

    def warm(self) -> None:
        """Begin to start the judge, without waiting for it. What goes wrong is raised by whoever measures first."""
        threading.Thread(target=self._start, name="judge", daemon=True).start()

    def _start(self) -> None:
        with self._lock, suppress(KoptError):
            if not self._closed:
                self._judge.start()

    def close(self) -> None:
        self._closed = True
        waited = self._lock.acquire(timeout=_PATIENCE)  # a judge that is just being started can then be ended
        self._judge.close()
        if waited:
            self._lock.release()

    @contextmanager
    def device(self) -> Iterator[str]:
        """Its UUID, while nothing is measured there."""
        with self._lock:
            yield self._judge.gpu.uuid if self._judge.gpu else ""

    def run(self, case: Case, earlier: Earlier) -> StageResult:
        return self.measure(case, SCREENING, earlier=earlier)

    def measure(
        self, case: Case, plan: Plan, rival: Rival | None = None, *, earlier: Earlier | None = None
    ) -> StageResult:
        """Measure every timing shape in the task's first regime, against `rival` or the baseline; HarnessError when the
        judge breaks. With the trace among `earlier`, what it recorded is replayed too, if the plan wants it.
        """
        regime: Regime = case.task.regimes[0]
        with ExitStack() as stack:
            made = self._made(stack, case, plan)
            if rival is not None and rival.source is not None:
                theirs = replace(case, source=rival.source, parameters=rival.parameters)
                rival = rival.model_copy(update={"binaries": self._made(stack, theirs, plan).cache})
            stack.enter_context(self._lock)
            started = time.perf_counter()
            judged = self._judge.measure(
                case.source,
                case.parameters,
                case.task.timing,
                regime,
                plan,
                rival=rival,
                binaries=made.cache,
                hidden=made.hidden,
                material=material(earlier) if plan.replay else None,
            )
        passed = judged.status is Status.PASSED
        findings = judged.findings
        if not passed and not any(f.status for f in findings):
            findings += (Finding(rule="judge.verdict", message="the judge gave no reason", status=judged.status),)
        return StageResult(
            stage=self.name,
            outcome=Outcome.PASSED if passed else Outcome.FAILED,
            facts={"regime": regime, "quads": dict(judged.quads), **judged.facts},
            findings=findings,
            seconds=time.perf_counter() - started,
            artifacts={"measurements": judged.measurements},
        )

    def _made(self, stack: ExitStack, case: Case, plan: Plan) -> Made:
        if self._binaries is None:
            return Made(None, ())
        self._binaries.begin(case, checks=plan.check)
        return stack.enter_context(self._binaries.taken(case, checks=plan.check))


def material(earlier: Earlier | None) -> Material | None:
    """What a replayer needs, from the trace; None without one, or where it is too much to hand over."""
    traced = (earlier or {}).get("trace")
    if traced is None or "recipes" not in traced.artifacts:
        return None
    cubins: Mapping[str, Path] = traced.artifacts["cubins"]
    if sum(path.stat().st_size for path in cubins.values()) > _MOST_IMAGES:
        return None
    images = {sha: b64encode(path.read_bytes()).decode() for sha, path in cubins.items()}
    return Material(recipes=traced.artifacts["recipes"], images=images)
