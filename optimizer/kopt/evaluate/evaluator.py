"""The evaluator: stages in order, the first failure ends it, and a verdict comes out.

with Evaluator("fp8_gemm", target="h200") as evaluator:
    verdict = evaluator.evaluate(source)
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kopt import content
from kopt.disk import writing
from kopt.errors import HarnessError, UsageError
from kopt.evaluate import VERSION, measure, outcome
from kopt.evaluate.binaries import Binaries, Made
from kopt.evaluate.measure import Measure
from kopt.evaluate.policy import Policy
from kopt.evaluate.score import outclassed, score, sure
from kopt.evaluate.stage import Case, Stage
from kopt.judge import SCREENING, Judge, Plan, Rival
from kopt.machine.products import DEFAULT_TARGET, product
from kopt.records import (
    Evidence,
    KernelFacts,
    Outcome,
    Parameters,
    Prediction,
    Shape,
    StageResult,
    Status,
    Submission,
    Task,
    Trial,
    Verdict,
    digest,
)

if TYPE_CHECKING:
    from kopt.evaluate.sass import Instruction
    from kopt.judge.replay import Material
    from kopt.profile import Profile
    from kopt.records import Toolchain

OnStage = Callable[[str], None]

SCREEN = ("policy", "trace", "numerics", "predict")
TRIAL = ("policy", "trace", "predict")


class Evaluator:
    """Evaluates sources for one task on one target; a context manager that owns the worker processes.

    Thread-safe: several evaluations may be in flight from different threads.
    """

    def __init__(
        self,
        task: Task | str,
        *,
        target: str = DEFAULT_TARGET,
        gpu: str | None = None,
        workspace: Path | None = None,
        shapes: Sequence[Shape] = (),
        seed: int = 0,
    ) -> None:
        """`shapes` replaces the task's timing shapes; UsageError when one does not fit the task.

        `gpu` is the index or UUID of the GPU to measure on, "" for the only one; with None, times are modelled.
        """
        if isinstance(task, str):
            task = content.load_task(task, content.workspace(workspace))
        if shapes:
            task = with_timing(task, shapes)
        self.task = task
        self.target = product(target)
        self.seed = seed
        # Here and not at the top: the workers' module is not needed to read a verdict, and does not exist on macOS.
        from kopt.evaluate.numerics import Numerics
        from kopt.evaluate.predict.stage import Predict
        from kopt.evaluate.steering import Steering
        from kopt.evaluate.trace import Trace
        from kopt.evaluate.workers import Workers

        with writing():
            self._store = Path(tempfile.mkdtemp(prefix="kopt-"))
        self.workers = Workers()
        self._steering = steering = Steering(self.workers, self._store)
        self._trace = Trace(self.workers, self._store, steering=steering)
        self.stages: tuple[Stage, ...] = (
            Policy(),
            self._trace,
            Numerics(self.workers, self._store),
            Predict(self.workers, self._store, steering=steering, judged=gpu is not None),
        )
        self._modelled: dict[str, float] = {}
        self._measure: Measure | None = None
        self._binaries: Binaries | None = None
        if gpu is not None:
            self._binaries = Binaries(self.workers, steering)
            self._measure = Measure(Judge(self.task, device=gpu, target=self.target), self._binaries)
            self._measure.warm()
            self.stages = (*self.stages, self._measure)

    @property
    def evidence(self) -> Evidence:
        """What will stand behind a score."""
        return Evidence.MODELLED if self._measure is None else Evidence.MEASURED

    @property
    def cores(self) -> int:
        return self.workers.cores

    @property
    def toolchain(self) -> Toolchain:
        return self.workers.toolchain()

    def evaluate(
        self, source: str, parameters: Parameters | None = None, *, on_stage: OnStage | None = None
    ) -> Verdict:
        """Judge a source that belongs to no run."""
        parameters = dict(parameters or {})
        return self.judge(_loose(source, parameters), source, on_stage)

    def screen(self, source: str, parameters: Parameters | None = None, *, on_stage: OnStage | None = None) -> Verdict:
        """As `evaluate`, by what needs no GPU; its score is modelled."""
        return self.judge(_loose(source, parameters or {}), source, on_stage, SCREEN)

    def judge(
        self,
        submission: Submission,
        source: str,
        on_stage: OnStage | None = None,
        stages: Sequence[str] = (*SCREEN, "measure"),
    ) -> Verdict:
        """Every stage for one submission at its pinned parameters."""
        started = time.perf_counter()
        case = self._case(submission, source)
        results = self._run(case, stages, on_stage, SCREENING if "measure" in stages else None)
        status = outcome.status_of(results)
        predictions, measurements = outcome.predictions(results), outcome.measurements(results)
        self._modelled_of(submission, predictions)
        value, evidence = None, None
        if status is Status.PASSED and measurements:
            value, evidence = score(self.task, self.target, measurements), Evidence.MEASURED
        elif status is Status.PASSED and not any(r.outcome is Outcome.UNAVAILABLE for r in results):
            value, evidence = score(self.task, self.target, predictions), Evidence.MODELLED
        return Verdict(
            submission=submission.n,
            sha=submission.sha,
            status=status,
            stages=tuple(results),
            score=value,
            evidence=None if value is None else evidence,
            predictions=predictions,
            measurements=measurements,
            target=self.target.key,
            toolchain=self.toolchain,
            evaluator=VERSION,
            seconds=time.perf_counter() - started,
        )

    def try_parameters(self, submission: Submission, source: str, parameters: Parameters, n: int) -> Trial:
        """One parameter point of a submission: traced, predicted and, on a GPU, glanced at. Not interpreted.

        Several may be in flight: while one is on the device, others are traced and compiled.
        """
        started = time.perf_counter()
        case = self._case(submission, source, parameters)
        results = self._run(case, TRIAL, None, measure.GLANCE)
        trial = Trial(
            n=n,
            submission=submission.n,
            parameters=parameters,
            status=outcome.status_of(results),
            predictions=outcome.predictions(results),
            facts=outcome.main_kernel(results),
        )
        if self._measure is not None and trial.status is Status.PASSED:
            if why := outclassed(*self._modelled_of(submission, trial.predictions)):
                if self._binaries is not None:
                    self._binaries.drop(case, checks=measure.GLANCE.check)
                return trial.model_copy(update={"pruned": why, "seconds": time.perf_counter() - started})
            results.append(self._measure.measure(case, measure.GLANCE))
        return self._scored(trial, results, started)

    def _modelled_of(self, submission: Submission, predictions: Sequence[Prediction]) -> tuple[float | None, float]:
        """The modelled score where it is sure, and the best such one of this submission's points so far."""
        value = sure(self.task, self.target, predictions)
        best = self._modelled[submission.sha] = max(self._modelled.get(submission.sha, 0.0), value or 0.0)
        return value, best

    def confirm(self, submission: Submission, source: str, trial: Trial) -> Trial:
        """A trial that a glance speaks for, measured as trials that count are."""
        if self._measure is None:
            raise HarnessError("this evaluator measures nothing: it has no GPU")
        started = time.perf_counter()
        case = self._case(submission, source, trial.parameters)
        return self._scored(trial, [self._measure.measure(case, measure.TRIAL)], started)

    def _case(self, submission: Submission, source: str, parameters: Parameters | None = None) -> Case:
        """At the submission's own parameters, but for those given."""
        merged = {**submission.parameters, **(parameters or {})}
        return Case(self.task, submission, source, self.target, merged, self.seed)

    def _scored(self, trial: Trial, results: Sequence[StageResult], started: float) -> Trial:
        """A trial with what these results say of it, and with the time they took."""
        status, measurements = outcome.status_of(results), outcome.measurements(results)
        value = score(self.task, self.target, measurements or trial.predictions) if status is Status.PASSED else None
        evidence = Evidence.MEASURED if measurements else Evidence.MODELLED
        update = {
            "status": status,
            "score": value,
            "evidence": None if value is None else evidence,
            "measurements": measurements,
            "findings": outcome.failures(results),
            "seconds": trial.seconds + time.perf_counter() - started,
        }
        return trial.model_copy(update=update)

    def remeasure(self, submission: Submission, source: str, plan: Plan, rival: Rival | None = None) -> StageResult:
        """The stage "measure" alone, by a plan of one's own; HarnessError where nothing can be measured.

        What is to be replayed is traced anew: compilations are at hand.
        """
        if self._measure is None:
            raise HarnessError("this evaluator measures nothing: it has no GPU")
        case = self._case(submission, source)
        traced = self._run(case, ("trace",), None, plan) if plan.replay else []
        earlier = {result.stage: result for result in traced}
        return self._measure.measure(case, plan, rival, earlier=earlier, blame=False)

    def hurry(self) -> None:
        """Wait for no machine any more; from any thread, or a signal handler."""
        if self._measure is not None:
            self._measure.hurry.set()

    def kernels(self, submission: Submission, source: str) -> Mapping[str, KernelFacts]:
        """What the compiler made of a submission, line tables included; {} when it does not get that far."""
        case = self._case(submission, source)
        results = self._run(case, ("policy", "trace"), None)
        return next((r.artifacts.get("kernels", {}) for r in results if r.stage == "trace"), {})

    def material(self, source: str, parameters: Parameters | None = None) -> Material | None:
        """What a judge needs to replay a source's launches at the timing shapes; None when it cannot be traced."""
        case = self._case(_loose(source, parameters or {}), source)
        return measure.material({"trace": self._trace.run(case, {})})

    @contextmanager
    def binaries(self, source: str, parameters: Parameters | None = None) -> Iterator[Made]:
        """What a source launches, checks included, for a judge that is not this evaluator's."""
        case = self._case(_loose(source, parameters or {}), source)
        made = Binaries(self.workers, self._steering)
        try:
            made.begin(case, checks=True)
            with made.taken(case, checks=True) as found:
                yield found
        finally:
            made.close()

    def counters(self, submission: Submission, source: str, shape: str = "", gpu: str = "") -> list[Profile]:
        """What the GPU's counters say of a source's kernels at one timing shape, without a name at the first.

        `gpu` is the UUID of the device, where this evaluator was not made to measure on one. UsageError for a shape
        that is not timed; MachineError without ncu, or where it may not count; HarnessError where the launches cannot
        be replayed under it.
        """
        from kopt import profile

        named = [s for s in self.task.timing if shape in ("", s.name)]
        if not named:
            there = ", ".join(s.name for s in self.task.timing)
            raise UsageError(f"task {self.task.name} times no shape {shape!r}; it has {there}")
        profile.required()  # before anything is traced
        found = self.material(source, submission.parameters)
        if found is None:
            raise HarnessError("no counters: the source cannot be traced")
        with self._measure.device() if self._measure else nullcontext(gpu) as where:
            return profile.profile(self.task, named[0], found, where)

    def hot_loop(self, kernel: KernelFacts) -> tuple[Instruction, ...]:
        """Instructions of the hot loop of a kernel that `kernels` has returned; () when it has no loop."""
        return self._trace.compiler.hot_loop(kernel.id, kernel.arch)

    def _run(
        self, case: Case, names: Sequence[str], on_stage: OnStage | None, plan: Plan | None = None
    ) -> list[StageResult]:
        """`plan`: how it is going to be measured."""
        earlier: dict[str, StageResult] = {}
        with ExitStack() as vain:  # what was begun for a candidate that gets no further
            for stage in self.stages:
                if stage.name not in names:
                    continue
                if on_stage is not None:
                    on_stage(stage.name)
                earlier[stage.name] = stage.run(case, earlier)
                if earlier[stage.name].outcome is Outcome.FAILED:
                    break
                # While the interpreter is at work, or another point is measured. A trial, which may yet be pruned,
                # takes only cores that are idle.
                made = self._binaries if stage.name == "trace" else None
                if made is not None and plan is not None and (plan.check or self.workers.idle):
                    made.begin(case, checks=plan.check)
                    vain.callback(made.drop, case, checks=plan.check)
            else:
                vain.pop_all()
        return list(earlier.values())

    def close(self) -> None:
        """End the worker processes and remove what they left."""
        if self._measure is not None:
            self._measure.close()
        if self._binaries is not None:
            self._binaries.close()
        self._trace.close()
        self.workers.close()
        shutil.rmtree(self._store, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def with_timing(task: Task, shapes: Sequence[Shape]) -> Task:
    """The task with other timing shapes."""
    for shape in shapes:
        try:
            task.validate_shape(shape, "timing")
        except ValueError as error:
            raise UsageError(f"task {task.name}: {error}") from error
    return task.model_copy(update={"timing": tuple(shapes)})


def _loose(source: str, parameters: Parameters) -> Submission:
    """A submission that belongs to no run."""
    return Submission(n=1, sha=digest(source, parameters), parameters=parameters, origin="user")
