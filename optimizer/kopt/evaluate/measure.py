"""Stage "measure": correctness at full size and the time on the device, by the judge. Absent where there is no GPU."""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kopt.errors import DeviceTaken, JudgeBroke, KoptError
from kopt.evaluate.binaries import Binaries, Made
from kopt.evaluate.stage import Case, Earlier
from kopt.judge import SCREENING, Judge, Judgement, Plan, Rival
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

PAUSE_S = 30.0
"""Between two attempts, where somebody else has the device."""
_PAUSES = 20
_BREAKS = 3
"""Kernels in a row over which the judge may break: more than that is no kernel's doing."""


class Measure:
    """The stage. Thread-safe: a device measures one thing at a time, whoever asks."""

    name = "measure"

    def __init__(self, judge: Judge, binaries: Binaries | None = None, pause_s: float = PAUSE_S) -> None:
        """`binaries`, where there are any, are waited for before the device is."""
        self._judge, self._binaries, self._pause_s = judge, binaries, pause_s
        self._lock, self._closed = threading.Lock(), False
        self._worked, self._broken = False, 0
        self.hurry = threading.Event()
        """Set when nothing is to be waited for any more."""

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
        self, case: Case, plan: Plan, rival: Rival | None = None, *, earlier: Earlier | None = None, blame: bool = True
    ) -> StageResult:
        """Measure every timing shape in the plan's regime, against `rival` or the baseline. With the trace among
        `earlier`, what it recorded is replayed too, if the plan wants it.

        Where it could measure before, a device that somebody else has taken since is waited for, at most for minutes;
        DeviceTaken. A judge that breaks over a kernel and not over the next ones is held against that kernel; with
        `blame` off, or when it goes on, JudgeBroke.
        """
        regime: Regime = plan.regime or case.task.regimes[0]
        with ExitStack() as stack:
            made = self._made(stack, case, plan)
            if rival is not None and rival.source is not None:
                theirs = replace(case, source=rival.source, parameters=rival.parameters)
                rival = rival.model_copy(update={"binaries": self._made(stack, theirs, plan).cache})
            stack.enter_context(self._lock)
            started = time.perf_counter()
            judged, remarks = self._patiently(
                lambda: self._judge.measure(
                    case.source,
                    case.parameters,
                    case.task.timing,
                    regime,
                    plan,
                    rival=rival,
                    binaries=made.cache,
                    hidden=made.hidden,
                    material=material(earlier) if plan.replay else None,
                ),
                blame,
            )
        passed = judged.status is Status.PASSED
        findings = (*remarks, *judged.findings)
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

    def _patiently(self, ask: Callable[[], Judgement], blame: bool) -> tuple[Judgement, list[Finding]]:
        """What the judge says, and what had to be waited for or started again."""
        pauses = 0
        while True:
            try:
                judged = ask()
            except DeviceTaken as error:
                # Who has only just begun is told at once.
                if not self._worked or pauses >= _PAUSES or self.hurry.wait(self._pause_s):
                    raise
                pauses += 1
                waited = Finding(rule="judge.waited", message=f"waited {pauses * self._pause_s:g} s: {error}")
                continue
            except JudgeBroke as error:
                self._broken += 1
                if not blame or not self._worked or self._broken > _BREAKS:
                    raise
                finding = Finding(rule="judge.broke", message=str(error), status=Status.CRASHED)
                judged = Judgement(status=Status.CRASHED, findings=(finding,))
            else:
                self._worked, self._broken = True, 0
            return judged, [waited] if pauses else []

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
