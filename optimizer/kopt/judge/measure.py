"""One measurement from start to end: checks, warm-up, quads against the baseline; numbers, or the reason why not."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kopt.evaluate import hooks as task_hooks
from kopt.judge import witness
from kopt.judge.arms import Arm
from kopt.judge.batches import Batches
from kopt.judge.crew import CANDIDATE, RIVAL, TRUSTED, Crew, Rejected
from kopt.judge.extras import Extras
from kopt.judge.layout import Layout
from kopt.judge.numbers import measurement
from kopt.judge.plan import BATCH_US, WARM_S, Plan, Regime, Rival
from kopt.judge.quads import Quads
from kopt.judge.replay import Material
from kopt.judge.replay.look import Replays
from kopt.judge.runners import RunnerFailed
from kopt.judge.series import GRAIN_US, Series
from kopt.judge.sizing import few, hidden_shapes, sizes
from kopt.judge.snapshot import SMALL, Look
from kopt.judge.statistics import FEWEST, precise
from kopt.judge.stopwatch import Stopwatch
from kopt.machine.products import Product
from kopt.records import Finding, Parameters, Shape, Status, Task
from kopt.text import counted

if TYPE_CHECKING:
    from kopt.judge.bench import Bench

_SHORT_BATCH = 0.25
"""Of the wanted work: what a batch takes besides its calls is no longer little against it."""
_NULLS = 2
"""Of either kind, before anything is timed; of those with work each second quad adds one."""
_MORE = 2
"""Times as many calls as were foreseen, from which on batches get them."""
_INSTEAD = 3
"""Batches in place of a single one that is astray: one of three may be, and their median is not."""
_CHECK_CALLS = 3
_FEWEST = 2
"""Quads that make a measurement, if a poor one, when the time is over."""
_SHORT = "the plan's time was over"


DROWNED_US = 100.0
"""Work in a batch that is little beside what null batches differ by."""


def believed(us: float, few: int, longer: float) -> float:
    """Microseconds of a call, by a batch of few and by a longer one: the lesser, since stalls only add, unless the few
    drowned in what any batch differs by."""
    return longer if few * us < DROWNED_US else min(us, longer)


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
        material: Material | None = None,
        hidden: Sequence[Shape] = (),
    ) -> None:
        self._bench, self._task, self._shapes, self._regime, self._plan = bench, task, shapes, regime, plan
        self._backend = bench.backend
        self._source, self._parameters, self._rival = source, parameters, rival
        self._product, self._material = product, material or Material()
        self._hooks: ModuleType = task_hooks.load(task)
        self._batch_us = plan.batch_us or BATCH_US[regime]
        self._crew = Crew(bench, task)
        self._batches = Batches(bench.backend, task, self._crew, regime, plan, started=started)
        self._checks = self._check_list(hidden) if plan.check else []
        # A point of a source that was compared whole need not be, where that takes seconds.
        self._closely: Look = "whole" if plan.accuracy else "sample"
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self.series: dict[str, Series] = {}
        self._watch = Stopwatch()
        self._memory = self.taken = 0
        """Bytes that were free or the judge's at first, and those that are neither any more, where it ran out."""

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and kind.__name__ == "OutOfMemoryError":
            self.taken = max(0, self._memory - self._bench.memory() - self._backend.own_bytes())
        with self._watch.on("end"):
            self._crew.disband()
        self._bench.prepare()
        self.facts["seconds"], self.facts["batches"] = self._watch.seconds, self._batches.watch.seconds
        self.facts["batch_count"] = self._batches.watch.times.get("window", 0)
        with suppress(RuntimeError):
            self.facts["witness_us"] = self._bench.self_test()

    # ------------------------------------------------------------------------------------------------- the procedure

    def run(self) -> None:
        plan, backend = self._plan, self._backend
        memory = self._bench.memory()
        self._memory = memory + self._backend.own_bytes()
        for shape in self._shapes:
            found = sizes(
                self._task, self._hooks, shape, backend, self._product, self._batch_us, plan.most_calls, memory
            )
            self.series[shape.name] = Series(shape, found)
        self._quads = Quads(backend, self._crew, self._batches, self._regime, plan.quads, self._closely)
        known = self._bench.errors(self._task)
        self._extras = Extras(self._task, self._batches, self._regime, plan, self._product, known, backend)
        with self._watch.on("start"):
            if not self._crew.take_over(self._need(TRUSTED)):
                self._hire(TRUSTED, None, {})
        if self._rival.source is not None:
            self._hire(RIVAL, self._rival.source, self._rival.parameters)
        for process in range(plan.processes):
            if process and self._batches.time_left <= 0 and self._enough():
                break  # what there is of every shape is a measurement; the quads it lacks are noted
            with self._watch.on("start"):
                self._hire(CANDIDATE, self._source, self._parameters)
            if process == 0:
                self.facts["walls"] = self._crew[CANDIDATE].runner.walls
                with self._watch.on("check"):
                    for shape, family in self._checks:
                        self._check(shape, family)
            for shape in self._shapes:
                self._shape(shape, -(-plan.quads * (process + 1) // plan.processes), first=process == 0)
            if plan.witness and backend.measures and process == plan.processes - 1:
                with self._watch.on("witness"):
                    self._witness()
            if process + 1 < plan.processes:
                self._bench.prepare()  # it wakes up while this one is buried
            self._crew.dismiss(CANDIDATE)
        if plan.replay and self._material.recipes:
            with self._watch.on("replay"):
                self._replay()

    def _replay(self) -> None:
        replays = Replays(
            self._bench, self._task, self._hooks, self._batches, self._regime, self._plan, self._product,
            self._material, self._source,
        )  # fmt: skip
        self.facts["replay"] = replays.facts
        try:
            replays.look(self.series, self._need(TRUSTED))
        finally:
            self.findings += replays.findings

    def _witness(self) -> None:
        """Under load the device grows hot: after everything that the candidate is timed for."""
        arm, facts = self._crew[CANDIDATE], self.facts.setdefault("activity", {})
        for name, series in self.series.items():
            if self._batches.time_left < 2 * witness.LOAD_S:
                break
            arm.setup(self._task, self._hooks, series.shape, series.sizes.layout, self._backend)
            cost = task_hooks.cost(self._task, series.shape)
            facts[name], finding = witness.look(
                self._backend, self._batches, arm, series, median(series.host), cost, self._task.score.peak,
                self._product,
            )  # fmt: skip
            if finding is not None and finding.status:
                raise Rejected(finding)
            self.findings += [finding] if finding else []

    def _check_list(self, hidden: Sequence[Shape]) -> list[tuple[Shape, str]]:
        """Small and ragged shapes first: most of what is wrong is wrong there already, and cheaply found."""
        task = self._task
        # A task that names none for a GPU is checked there at those for the CPU: at the timed ones alone, a kernel that
        # knows no others would pass.
        shapes: list[Shape] = list((self._backend.measures and task.check_gpu) or task.check_cpu)
        if self._backend.measures:
            shapes += hidden or hidden_shapes(task, random.Random(secrets.randbits(64)))
        checks = [(shape, family) for shape in shapes for family in task.families_for(shape)]
        exact = task.tolerance.exact_inputs[:1]
        return checks + [(shape, family) for shape in self._shapes for family in exact if self._backend.measures]

    def _few(self, shape: Shape) -> Layout:
        return few(self._task, shape, _CHECK_CALLS, self._memory)

    def _check(self, shape: Shape, family: str) -> None:
        """A few calls, untimed, one of them compared whole, or all where that is little."""
        arm = self._crew[CANDIDATE]
        deck = arm.deck
        if deck is None or deck.shape != shape:
            deck = arm.setup(self._task, self._hooks, shape, self._few(shape), self._backend)
        # As the task drew them: what a family of inputs shows may depend on all of them.
        calls = deck.diagonal(_CHECK_CALLS)
        little = all(out[0].numel() <= SMALL for out in deck.outputs.values())
        # Where a task looks at given rows by itself, the whole is dear.
        look: Look = "every" if little and not deck.knows_slices else "whole"
        self._batches.ask(arm, calls, family=family, first=True, look=look)

    def _shape(self, shape: Shape, quads: int, *, first: bool) -> None:
        """Quads of one shape with the present processes, until the series has so many."""
        series, opponent = self.series[shape.name], self._opponent()
        candidate = self._crew[CANDIDATE]
        with self._watch.on("warm"):
            for arm in {id(a): a for a in (self._crew[TRUSTED], opponent, candidate) if a}.values():
                arm.setup(self._task, self._hooks, shape, series.sizes.layout, self._backend)
            if self._regime == "sustained":
                self._backend.heat(WARM_S)
            self._batches.null(bare=True)  # the first of a shape asks the allocator for memory
            series.bare += [self._batches.null(bare=True) for _ in range(_NULLS)]
            series.nulls += [self._batches.null() for _ in range(_NULLS)]
            calls = self._calibrate(candidate, series)
            if opponent is not None:
                opponent = self._warm(opponent, series)
        before = len(series.host)
        with self._watch.on("quads"):
            self._quads.begin(self._fewest(series, quads, opponent) if self._plan.accuracy else 0)
            while not self._has(series, quads, opponent) and self._batches.time_left > 0:
                self._quads.add(series, opponent, calls)
                # Who was slow when it was asked how long a call takes is not timed, and compared, in batches of two.
                if series.host and (more := self._count(series, series.host[-1])) >= _MORE * calls:
                    calls = more
        done = len(series.logs if opponent else series.host)
        if self._has(series, quads, opponent):
            pass
        elif done >= _FEWEST and self._later_have(shape):
            series.warnings = [w for w in series.warnings if not w.startswith(_SHORT)]
            series.warnings.append(f"{_SHORT} after {done} of {quads} quads")
        else:
            message = f"no verdict within {self._plan.seconds:g} s"
            self.facts["partial"] = {n: s.partial() for n, s in self.series.items() if s.host}
            raise Rejected(Finding(rule="judge.deadline", message=message, status=Status.TIMEOUT, shape=shape.name))
        if first and self._batches.time_left > 0:
            with self._watch.on("extras"):
                replayed = self._plan.replay and self._material.replayable(shape.name)
                self._extras.look(shape, series, candidate, calls, replayed=replayed)
        self._extras.hold(shape, candidate, series.host[before:])

    def _has(self, series: Series, quads: int, opponent: Arm | None) -> bool:
        """Whether a shape has been measured enough."""
        if opponent is None:
            more = quads == 1 and series.astray and self._batches.time_left > 0
            return len(series.host) >= (_INSTEAD if more else quads)
        return len(series.logs) >= quads or precise(series.logs, self._plan.precision)

    def _fewest(self, series: Series, quads: int, opponent: Arm | None) -> int:
        """Batches that the candidate is asked for at least, until a shape has been measured enough."""
        if opponent is None:
            return max(1, quads - len(series.host))
        enough = quads if self._plan.precision is None else min(quads, FEWEST)
        return 2 * max(1, enough - len(series.logs))

    def _calibrate(self, arm: Arm, series: Series) -> int:
        """Calls for a batch of the wanted length, after enough of them that nothing is compiled any more."""
        deck = arm.deck
        assert deck is not None
        # A call is compared whole, or in many rows, once per process and shape at least: here, or in a batch that
        # nobody can tell from the others, where the vendor's exactness is asked for too.
        self._batches.ask(arm, deck.deal(1), first=True, look="slices" if self._plan.accuracy else self._closely)
        few, captured = min(4, series.sizes.slots), self._batches.captured
        # What is only to say how long a batch should be may use operands again; and twice, since a host that stalls
        # makes few calls look long.
        us = min(self._us(arm, series, few) for _ in range(2))
        count = self._count(series, us)
        if count < few:  # so long, or twice a stall: batches of two short calls would drown
            us = min(us, *(self._us(arm, series, few) for _ in range(2)))
            count = self._count(series, us)
        if count > few and (captured or few * us < DROWNED_US):
            us = believed(us, few, self._us(arm, series, count))
            count = self._count(series, us)
        series.expected = us
        short = self._backend.measures and count * us < _SHORT_BATCH * self._batch_us
        if short and not any(text.startswith("short:") for text in series.warnings):
            series.warnings.append(f"short: a batch has {counted(count, 'call')}, {count * us / 1e3:.1f} ms of work")
        return count

    def _count(self, series: Series, us: float) -> int:
        """Calls that make a batch of the wanted length."""
        return max(2, min(series.sizes.slots, round(self._batch_us / us)))

    def _us(self, arm: Arm, series: Series, calls: int) -> float:
        """Of a call, in a batch of so many on the last one's operands."""
        assert arm.deck is not None
        batch = self._batches.ask(arm, arm.deck.deal(calls), look="slices", keep=True)
        return max(GRAIN_US, series.per_call(batch))

    def _warm(self, opponent: Arm, series: Series) -> Arm | None:
        deck = opponent.deck
        assert deck is not None
        try:
            self._batches.ask(opponent, deck.deal(1), first=True, look="slices")
            curious = opponent.label == TRUSTED and deck.own_check is None and self._extras.curious(deck.shape)
            look: Look = "whole" if curious else "slice"
            self._batches.ask(opponent, deck.deal(min(4, series.sizes.slots)), look=look)
            if curious:
                self._extras.learn(opponent, deck.shape)
        except (RunnerFailed, Rejected) as failure:
            if opponent.label == RIVAL:
                raise
            # A vendor library need not support every shape. The ratio is then missing, and says so.
            series.warnings.append(f"no baseline: {failure.finding.message}")
            self._crew.dismiss(TRUSTED)
            self._hire(TRUSTED, None, {})
            shape = deck.shape
            self._crew[TRUSTED].setup(self._task, self._hooks, shape, series.sizes.layout, self._backend)
            self._batches.null()  # its first one, as of any process, has everything to load
            return None
        return opponent

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

    def _opponent(self) -> Arm | None:
        if RIVAL in self._crew:
            return self._crew[RIVAL]
        return self._crew[TRUSTED] if hasattr(self._hooks, "baseline") else None

    def _need(self, label: str) -> int:
        """Bytes that an arm shares with the judge, at most."""
        need = [s.sizes.layout.total_bytes for s in self.series.values()]
        if label == CANDIDATE:
            need += [self._few(shape).total_bytes for shape, _ in self._checks]
        return max(need)

    def _hire(self, label: str, source: str | None, parameters: Parameters) -> None:
        left = self._batches.time_left
        self._crew.hire(
            label,
            source,
            parameters,
            nbytes=self._need(label),
            start=min(self._plan.call_seconds, max(0.1, left)),
        )
