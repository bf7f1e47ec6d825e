"""One measurement from start to end: checks, warm-up, quads against the baseline; numbers, or the reason why not."""

from __future__ import annotations

import random
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kopt.errors import HarnessError
from kopt.evaluate import hooks as task_hooks
from kopt.judge.accuracy import accuracy
from kopt.judge.agreement import agreement
from kopt.judge.arms import Arm, Batch, run
from kopt.judge.backends import Sample
from kopt.judge.deck import Call
from kopt.judge.layout import layout
from kopt.judge.numbers import impossible, measurement, per_call
from kopt.judge.plan import BATCH_US, HEAT_S, IDLE_S, Plan, Regime, Rival
from kopt.judge.runners import Mode, Runner, RunnerFailed
from kopt.judge.series import Series
from kopt.judge.sizing import hidden_shapes, sizes
from kopt.judge.statistics import quad
from kopt.machine.products import Product
from kopt.records import NO_DEVICE_TIME, Finding, Parameters, Shape, Status, Task

if TYPE_CHECKING:
    from kopt.judge.bench import Bench

TRUSTED, CANDIDATE, RIVAL = "baseline", "kernel", "incumbent"
_DAY = 86400.0
_WARM_S = 3.0
"""Seconds of load before the first batch of a sustained series: the power limit finds its clock within one or two."""
_NULLS = 5
_PATIENCE = 30.0
"""Seconds for a batch of the baseline, whatever the plan gives a candidate."""
_CHECK_CALLS = 3
_CLOCK_CHANGE = 0.01
_BUSY = 1.3
"""A witness this much slower than at rest: somebody else's work is on the device."""
_VOIDS = 4
"""Void quads of a shape after which a busy device ends the measurement and an unsteady clock is put up with."""
_FEWEST = 2
"""Quads that make a measurement, if a poor one, when the time is over."""
_SHORT = "the plan's time was over"
_UNSTEADY = "the clock does not hold still within a quad"
# Relative RMS error of rounding to a dtype: half a unit in the last place, evenly spread, of a number drawn evenly.
ROUNDING = {"float64": 6e-17, "float32": 3e-8, "float16": 2e-4, "bfloat16": 1.7e-3, "float8_e4m3fn": 2.7e-2,
            "float8_e5m2": 5.4e-2}  # fmt: skip


class Rejected(Exception):
    """What an arm did cannot stand; the finding says why."""

    def __init__(self, finding: Finding, label: str = CANDIDATE) -> None:
        super().__init__(str(finding))
        self.finding, self.label = finding, label


class Job:
    """One request."""

    def __init__(
        self,
        bench: Bench,
        task: Task,
        source: str,
        parameters: Parameters,
        shapes: list[Shape],
        regime: Regime,
        plan: Plan,
        product: Product | None,
        rival: Rival,
        started: float,
    ) -> None:
        self._bench, self._task, self._shapes, self._regime, self._plan = bench, task, shapes, regime, plan
        self._backend = bench.backend
        self._source, self._parameters, self._rival = source, parameters, rival
        self._product = product
        self._end = started + plan.seconds
        self._hooks: ModuleType = task_hooks.load(task)
        self._batch_us = plan.batch_us or BATCH_US[regime]
        self._idle = IDLE_S[regime] if plan.idle_s is None else plan.idle_s
        self._checks = self._check_list() if plan.check else []
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self.series: dict[str, Series] = {}
        self._arms: dict[str, Arm] = {}

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        trusted = self._arms.pop(TRUSTED, None)
        for label in list(self._arms):
            self._dismiss(label)
        if trusted is not None:
            trusted.deck = None
            self._bench.keep(self._task, trusted)
        with suppress(RuntimeError):
            self.facts["witness_us"] = self._bench.self_test()

    # ------------------------------------------------------------------------------------------------- the procedure

    def run(self) -> None:
        plan, backend = self._plan, self._backend
        memory = self._bench.memory()
        for shape in self._shapes:
            found = sizes(
                self._task, self._hooks, shape, backend, self._product, self._batch_us, plan.most_calls, memory
            )
            self.series[shape.name] = Series(shape, found)
        self._resting = backend.witness()
        with self._clocked("start"):
            need = max(s.sizes.layout.total_bytes for s in self.series.values())
            if arm := self._bench.kept(self._task, need):
                self._arms[TRUSTED] = arm
            else:
                self._hire(TRUSTED, None, {})
        if self._rival.source is not None:
            self._hire(RIVAL, self._rival.source, self._rival.parameters)
        for process in range(plan.processes):
            if process and self._time_left() <= 0 and self._enough():
                break  # what there is of every shape is a measurement; the quads it lacks are noted
            with self._clocked("start"):
                self._hire(CANDIDATE, self._source, self._parameters)
            if process == 0:
                self.facts["walls"] = self._arms[CANDIDATE].runner.walls
                with self._clocked("check"):
                    for shape, family in self._checks:
                        self._check(shape, family)
            for shape in self._shapes:
                self._shape(shape, -(-plan.quads * (process + 1) // plan.processes), first=process == 0)
            self._dismiss(CANDIDATE)

    def _check_list(self) -> list[tuple[Shape, str]]:
        """Small and ragged shapes first: most of what is wrong is wrong there already, and cheaply found."""
        task = self._task
        shapes: list[Shape] = list(task.check_gpu if self._backend.measures else task.check_cpu)
        if self._backend.measures:
            shapes += hidden_shapes(task, random.Random(secrets.randbits(64)))
        checks = [(shape, family) for shape in shapes for family in task.families_for(shape)]
        exact = task.tolerance.exact_inputs[:1]
        return checks + [(shape, family) for shape in self._shapes for family in exact if self._backend.measures]

    def _check(self, shape: Shape, family: str) -> None:
        """A few calls, untimed, one of them compared whole."""
        arm = self._arms[CANDIDATE]
        deck = arm.setup(self._task, self._hooks, shape, layout(self._task, shape.dims, 2, _CHECK_CALLS), self._backend)
        calls = deck.deal(_CHECK_CALLS)
        self._batch(arm, calls, family=family, first=True)

    def _shape(self, shape: Shape, quads: int, *, first: bool) -> None:
        """Quads of one shape with the present processes, until the series has so many."""
        series, opponent = self.series[shape.name], self._opponent()
        candidate = self._arms[CANDIDATE]
        with self._clocked("warm"):
            for arm in {id(a): a for a in (self._arms[TRUSTED], opponent, candidate) if a}.values():
                arm.setup(self._task, self._hooks, shape, series.sizes.layout, self._backend)
            if self._regime == "sustained":
                self._backend.heat(_WARM_S)
            self._null()  # the first of a shape asks the allocator for memory
            series.nulls += [self._null().us for _ in range(_NULLS)]
            calls = self._calibrate(candidate, series)
            if opponent is not None:
                opponent = self._warm(opponent, series)
        with self._clocked("quads"):
            while len(series.logs if opponent else series.host) < quads and self._time_left() > 0:
                self._quad(series, candidate, opponent, calls)
        done = len(series.logs if opponent else series.host)
        if done < quads and done >= _FEWEST and self._later_have(shape):
            series.warnings = [w for w in series.warnings if not w.startswith(_SHORT)]
            series.warnings.append(f"{_SHORT} after {done} of {quads} quads")
        elif done < quads:
            message = f"no verdict within {self._plan.seconds:g} s"
            self.facts["partial"] = {n: s.partial() for n, s in self.series.items() if s.host}
            raise Rejected(Finding(rule="judge.deadline", message=message, status=Status.TIMEOUT, shape=shape.name))
        if first and self._time_left() > 0:
            with self._clocked("extras"):
                self._extras(shape, series, candidate, opponent, calls)

    def _calibrate(self, arm: Arm, series: Series) -> int:
        """Calls for a batch of the wanted length, after enough of them that nothing is compiled any more."""
        deck = arm.deck
        assert deck is not None
        self._batch(arm, deck.deal(1), first=True)
        few = min(4, series.sizes.slots)
        batches = [self._batch(arm, deck.deal(few)) for _ in range(2)]
        us = min(per_call(b, series.null) for b in batches)
        return max(2, min(series.sizes.slots, round(self._batch_us / us)))

    def _warm(self, opponent: Arm, series: Series) -> Arm | None:
        deck = opponent.deck
        assert deck is not None
        try:
            self._batch(opponent, deck.deal(1), first=True)
            self._batch(opponent, deck.deal(min(4, series.sizes.slots)))
        except (RunnerFailed, Rejected) as failure:
            if opponent.label == RIVAL:
                raise
            # A vendor library need not support every shape. The ratio is then missing, and says so.
            series.warnings.append(f"no baseline: {failure.finding.message}")
            self._dismiss(TRUSTED)
            self._hire(TRUSTED, None, {})
            shape = deck.shape
            self._arms[TRUSTED].setup(self._task, self._hooks, shape, series.sizes.layout, self._backend)
            return None
        return opponent

    def _quad(self, series: Series, candidate: Arm, opponent: Arm | None, most: int) -> None:
        """Opponent, candidate, candidate, opponent; void when the device was not itself throughout."""
        calls = most - random.randrange(max(1, most // 8))
        order = (opponent, candidate, candidate, opponent) if opponent else (candidate,)
        times: dict[str, list[float]] = defaultdict(list)
        samples, disturbed = [], False
        series.nulls.append(self._null().us)
        for arm in order:
            assert arm is not None
            assert arm.deck is not None
            try:
                batch = self._batch(arm, arm.deck.deal(calls), rest=True)
            except Rejected as wrong:
                if wrong.label == CANDIDATE or series.void >= _VOIDS:
                    raise
                # It was right before: somebody may have had a hand in its memory.
                series.void += 1
                return
            times[arm.label].append(per_call(batch, series.null))
            samples.append(batch.sample)
            disturbed = disturbed or self._backend.witness() > _BUSY * self._resting > 0
        if disturbed:
            series.void += 1
            if series.void >= _VOIDS:
                raise Rejected(self._busy())
            return
        if self._uneven(samples):
            if series.void < _VOIDS:
                series.void += 1
                return
            # It will not get better: a number that says so is worth more than none.
            series.warnings = [w for w in series.warnings if w != _UNSTEADY] + [_UNSTEADY]
        series.host += times[CANDIDATE]
        series.samples += samples
        series.calls += calls * 2
        if opponent is not None:
            series.rival += times[opponent.label]
            series.logs.append(quad(times[CANDIDATE], times[opponent.label]))

    def _extras(self, shape: Shape, series: Series, candidate: Arm, opponent: Arm | None, calls: int) -> None:
        """Once per shape: time without host code, and whether the time per call depends on how calls are asked for."""
        deck = candidate.deck
        assert deck is not None
        if self._plan.graph:
            for _ in range(3):
                batch = self._batch(candidate, deck.deal(calls), mode="graph", rest=True)
                if batch.calls == 0:
                    if self._backend.measures:
                        series.warnings.append(f"{NO_DEVICE_TIME}: the call cannot be captured in a CUDA graph")
                    break
                series.device.append(per_call(batch, series.null))
        if self._plan.accuracy and deck.own_check is None:
            self._accuracy(shape, candidate, opponent if opponent and opponent.label == TRUSTED else None)
        if not self._backend.measures:
            return
        if self._plan.agreement and self._regime == "burst":

            def timed(calls: Sequence[Call]) -> float:
                return per_call(self._batch(candidate, calls, rest=True), series.null)

            for found in agreement(shape, deck, calls, timed):
                if found.status:
                    raise Rejected(found)
                series.warnings.append(found.message)
        if self._product is not None:
            cost = task_hooks.cost(self._task, shape)
            if finding := impossible(median(series.host), cost, self._product, self._task, shape):
                raise Rejected(finding)

    def _accuracy(self, shape: Shape, candidate: Arm, vendor: Arm | None) -> None:
        def ask(arm: Arm, calls: Sequence[Call], like: Batch | None) -> Batch:
            return self._batch(arm, calls, like=like)

        unit = max(ROUNDING.get(spec.dtype, 0.0) for spec in self._task.outputs)
        for found in accuracy(shape, candidate, vendor, unit, ask):
            if found.status:
                raise Rejected(found)
            self.series[shape.name].warnings.append(found.message)

    def _enough(self) -> bool:
        return all(len(s.logs or s.host) >= _FEWEST for s in self.series.values())

    def _later_have(self, shape: Shape) -> bool:
        """Whether the shapes that come after this one have been measured already, by an earlier process."""
        later = self._shapes[self._shapes.index(shape) + 1 :]
        return all(len(self.series[s.name].logs or self.series[s.name].host) >= _FEWEST for s in later)

    # ------------------------------------------------------------------------------------------------------- details

    def measurements(self) -> tuple[Any, ...]:
        made = []
        for series in self.series.values():
            self.facts.setdefault("shapes", {})[series.shape.name] = series.facts()
            cost = task_hooks.cost(self._task, series.shape)
            against_baseline = self._rival.source is None
            made.append(
                measurement(
                    self._task,
                    series,
                    self._regime,
                    cost,
                    self._product if self._backend.measures else None,
                    against_baseline=against_baseline,
                    warnings=series.remarks(self._batch_us),
                )
            )
        return tuple(made)

    def _batch(
        self,
        arm: Arm,
        calls: Sequence[Call],
        *,
        family: str = "",
        first: bool = False,
        rest: bool = False,
        mode: Mode = "eager",
        like: Batch | None = None,
    ) -> Batch:
        """One batch, checked. Rejected for what it wrote; a batch of no calls when it cannot be captured."""
        assert arm.deck is not None
        seconds = min(self._plan.call_seconds * (1.0 if first else 0.2), max(0.1, self._time_left()))
        if arm.label == TRUSTED:
            # Ours: when it is late the machine is busy, and no candidate is to blame.
            seconds = max(seconds, _PATIENCE)
        batch = run(
            self._backend,
            arm,
            calls,
            family=family or self._task.timed_family(arm.deck.shape),
            seconds=seconds,
            mode=mode,
            idle=self._idle if rest else 0.0,
            heat=HEAT_S[self._regime] if rest and calls else 0.0,
            like=like,
        )
        if batch is None:
            return Batch(0.0, 0.0, 0, Sample())
        if batch.finding is not None:
            raise Rejected(batch.finding, arm.label)
        return batch

    def _null(self) -> Batch:
        # After the same rest as any other batch: what a device takes to wake up is no kernel's doing.
        return self._batch(self._arms[TRUSTED], [], rest=True)

    def _opponent(self) -> Arm | None:
        if RIVAL in self._arms:
            return self._arms[RIVAL]
        return self._arms[TRUSTED] if hasattr(self._hooks, "baseline") else None

    def _uneven(self, samples: Sequence[Sample]) -> bool:
        """Whether the device changed its pace within a burst. Under sustained load the power limit always moves it."""
        if self._regime == "sustained":
            return False
        clocks = [s.clock_mhz for s in samples if s.clock_mhz]
        changed = bool(clocks) and max(clocks) / min(clocks) > 1 + _CLOCK_CHANGE
        return changed or len({s.throttle for s in samples}) > 1

    def _busy(self) -> Finding:
        # Is it the candidate's work, or a stranger's?
        self._dismiss(CANDIDATE)
        time.sleep(0.5)
        if self._backend.witness() > _BUSY * self._resting:
            raise HarnessError("the device is busy with somebody else's work")
        message = "the kernel leaves work running on the device after it said that it was done"
        return Finding(rule="judge.busy", message=message, status=Status.REJECTED)

    @contextmanager
    def _clocked(self, phase: str) -> Iterator[None]:
        """Where the verdict's time goes: facts["seconds"], by phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = self.facts.setdefault("seconds", {})
            seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - began

    def _time_left(self) -> float:
        return self._end - time.monotonic()

    def _hire(self, label: str, source: str | None, parameters: Parameters) -> None:
        need = [s.sizes.layout.total_bytes for s in self.series.values()]
        if label == CANDIDATE:
            need += [layout(self._task, s.dims, 2, _CHECK_CALLS).total_bytes for s, _ in self._checks]
        arena, fd, size = self._bench.arena(label, max(need))
        payload: Mapping[str, Any] = {
            "backend": self._backend.name,
            "task": self._task.model_dump(mode="json"),
            "source": source,
            "parameters": dict(parameters),
            "arena_bytes": size,
            "trusted": label == TRUSTED,
        }
        deadline = _DAY if label == TRUSTED else max(1.0, self._time_left()) + 30.0
        cache = self._bench.binaries(source) if source else None
        runner = Runner(self._bench.zygote, label, payload, fd, deadline=deadline, cache=cache)
        self._arms[label] = Arm(label, runner, arena, source)
        runner.ready(min(self._plan.call_seconds, max(0.1, self._time_left())))

    def _dismiss(self, label: str) -> None:
        arm = self._arms.pop(label, None)
        if arm is not None:
            arm.runner.kill(self._bench.shelf(arm.source) if arm.source else None)
