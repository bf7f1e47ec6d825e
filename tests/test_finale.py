"""Only what is measured again is a headline.

The judge here is the real one, on the CPU backend; a kernel is as slow as it sleeps, and a score is taken from the
judge's times, which no product of kopt's would do without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from judge.kernels import kernel
from quick import TOOLCHAIN

from kopt import content, finale, loop
from kopt.budget import Budget
from kopt.errors import MachineError
from kopt.evaluate.contest import contest
from kopt.evaluate.measure import Measure
from kopt.evaluate.score import score
from kopt.evaluate.stage import Case
from kopt.journal import FILE, Journal
from kopt.judge import HEADLINE, PROMOTION, Judge, Plan, Rival, promotes
from kopt.machine.products import product
from kopt.meta import Meta, create
from kopt.records import (
    Contest,
    Evidence,
    Finding,
    Measurement,
    Parameters,
    Quantity,
    StageResult,
    Status,
    Submission,
    Task,
    Trial,
    Verdict,
)
from kopt.run import Run
from kopt.runs import summaries
from kopt.session import Session, Stop

HASTE = {
    "quads": 6,
    "processes": 1,
    "batch_us": 5_000.0,
    "most_calls": 2,
    "idle_s": 0.0,
    "call_seconds": 5.0,
    "graph": False,
    "check": False,
}


def slow(ms: float) -> str:
    return kernel(f"import time\ntime.sleep({ms / 1e3})\ncompute(a, scale, b, out)")


@pytest.fixture(scope="module")
def blend() -> Task:
    return content.read_task(Path(__file__).parent / "judge" / "tasks" / "blend")


@pytest.fixture(scope="module")
def lasting(blend: Task) -> Task:
    """The same under lasting load, too."""
    return blend.model_copy(update={"regimes": ("burst", "sustained")})


@pytest.fixture(scope="module")
def judge(blend: Task) -> Iterator[Judge]:
    with Judge(blend, "cpu") as judge:
        yield judge


class Stand:
    """In the evaluator's place: submissions get the score a test claims for them, as a noisy screening might."""

    cores = 1
    evidence = Evidence.MEASURED
    toolchain = TOOLCHAIN

    def __init__(self, task: Task, judge: Judge, claims: dict[str, float]) -> None:
        self.task, self.target, self._measure, self._claims = task, product("h200"), Measure(judge), claims
        self.asked: list[tuple[int, Plan, Rival | None]] = []
        self.confirmed: list[object] = []
        self.beside: dict[str, str] = {}
        """Sources that turn into others when they are compared with a candidate."""
        self.stages: tuple[StageResult, ...] = ()

    def judge(self, submission: Submission, source: str, on_stage: Callable[[str], None] | None = None) -> Verdict:
        measured = tuple(
            Measurement(shape=s.name, regime="burst", host_us=Quantity(value=1.0)) for s in self.task.timing
        )
        return Verdict(
            submission=submission.n, sha=submission.sha, status=Status.PASSED, score=self._claims[source],
            stages=self.stages, evidence=Evidence.MEASURED, measurements=measured, target="h200", toolchain=TOOLCHAIN,
            evaluator=1,
        )  # fmt: skip

    def remeasure(self, submission: Submission, source: str, plan: Plan, rival: Rival | None = None) -> StageResult:
        self.asked.append((submission.n, plan, rival))
        case = Case(self.task, submission, source, self.target, submission.parameters)
        if rival is not None:
            rival = Rival(source=self.beside.get(rival.source or "", rival.source), parameters=rival.parameters)
        found = self._measure.measure(case, plan.model_copy(update=HASTE), rival)
        scored = tuple(
            m.model_copy(update={"utilization": Quantity(value=1000.0 / m.host_us.value)})
            for m in found.artifacts["measurements"]
        )
        return found.model_copy(update={"artifacts": {"measurements": scored}})

    def try_parameters(self, submission: Submission, source: str, parameters: Parameters, n: int) -> Trial:
        return self._trial(submission, parameters, n, float(parameters["SPEED"]))  # type: ignore[arg-type]

    def confirm(self, submission: Submission, source: str, trial: Trial) -> Trial:
        self.confirmed.append(trial.parameters["SPEED"])
        return self._trial(submission, trial.parameters, trial.n, trial.score - 0.001)  # type: ignore[operator]

    def hurry(self) -> None:
        self._measure.hurry.set()

    def _trial(self, submission: Submission, parameters: Parameters, n: int, score: float) -> Trial:
        return Trial(
            n=n, submission=submission.n, parameters=parameters, status=Status.PASSED, score=score,
            evidence=Evidence.MEASURED,
        )  # fmt: skip


@contextmanager
def opened(
    tmp_path: Path, task: Task, judge: Judge, claims: dict[str, float], budget: Budget | None = None
) -> Iterator[tuple[Session, Stand]]:
    stand = Stand(task, judge, claims)
    budget = budget or Budget()
    folder = tmp_path / "submissions" / "run"
    if not folder.exists():
        create(folder, Meta(
            id="run", created=1.0, kopt="0", evaluator=1, task=task.name, task_sha=task.sha, target="h200",
            evidence=Evidence.MEASURED, proposer="search", seed=0, budget=budget, toolchain=TOOLCHAIN,
        ))  # fmt: skip
    with Journal(folder / FILE) as log:
        run = Run.load(folder)
        yield Session(run, log, task, stand, budget), stand  # type: ignore[arg-type]


class Each:
    """Proposes these sources."""

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources

    def drive(self, session: Session) -> None:
        for source in self._sources:
            session.submit(source, note="", origin="test")


def test_of_a_batch_of_trials_only_the_most_promising_are_measured_properly(
    tmp_path: Path, blend: Task, judge: Judge
) -> None:
    source = "TUNE = {'SPEED': [0.1, 0.5, 0.6, 0.61, 0.605]}\n" + kernel("compute(a, scale, b, out)").replace(
        "b, out):\n    compute", "b, out, *, SPEED=0.1):\n    compute"
    )
    with opened(tmp_path, blend, judge, {source: 0.1}) as (session, stand):
        session.submit(source, note="", origin="test")
        rows = session.tune(1, 4)
        told = [session.run.trial(1, row.n) for row in rows]
    assert stand.confirmed == [0.61, 0.605]
    assert [row.n for row in rows] == [1, 2, 3, 4]
    for trial in told:
        speed = trial.parameters["SPEED"]
        assert trial.score == (speed - 0.001 if speed in stand.confirmed else speed)  # type: ignore[operator]
        assert bool(trial.pruned) is (speed not in stand.confirmed)


def test_the_headline_is_measured_again_and_a_lucky_number_does_not_survive(
    tmp_path: Path, blend: Task, judge: Judge
) -> None:
    # The run believed the slowest to be the best by far.
    claims = {slow(16): 0.9, slow(4): 0.5, slow(8): 0.4}
    with opened(tmp_path, blend, judge, claims) as (session, stand):
        loop.drive(session, Each(list(claims)))
        run = session.run
    held = run.finale
    assert held is not None
    assert (held.winner, held.promoted, held.incumbent) == (2, True, 1)
    assert run.incumbent is not None
    assert run.incumbent.n == 2
    assert run.incumbent.score == held.score
    assert 0.05 < (held.score or 0) < 0.25  # 1000 us over 4 ms and what the machine adds, and nothing of the claim
    assert run.entry(1).screened == 0.9
    assert all(m.baseline_ratio is not None for m in held.measurements)
    # Round-robin against the baseline first; then the two meet.
    assert [(n, r.source if r else None) for n, _, r in stand.asked] == [
        (1, None), (2, None), (3, None), (2, slow(16))
    ]  # fmt: skip

    again = Run.load(tmp_path / "submissions" / "run")
    assert again.finale == held
    assert again.best[-1].n == 2
    (row,) = summaries(tmp_path)
    assert (row.best_n, row.best, row.reason) == (2, held.score, again.ended)


def test_who_breaks_off_a_comparison_does_not_keep_its_place(tmp_path: Path, blend: Task, judge: Judge) -> None:
    claims = {slow(16): 0.9, slow(4): 0.5}
    with opened(tmp_path, blend, judge, claims) as (session, stand):
        stand.beside[slow(16)] = kernel("out.zero_()")
        loop.drive(session, Each(list(claims)))
        run = session.run
    held = run.finale
    assert held is not None
    assert (held.winner, held.incumbent, held.promoted) == (2, 1, False)
    assert held.reason == "submission 1 did not hold up in a comparison"
    assert "beside submission 2" in run.entry(1).refuted
    assert run.incumbent is not None
    assert run.incumbent.n == 2
    assert Run.load(tmp_path / "submissions" / "run").finale == held


def test_equals_do_not_replace_each_other(
    tmp_path: Path, blend: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At its own alpha the rule errs in one of a hundred such finales, by design.
    monkeypatch.setattr(finale, "promotes", partial(promotes, alpha=1e-6))
    claims = {slow(8): 0.6, slow(8) + "\nX = 1\n": 0.5}
    with opened(tmp_path, blend, judge, claims) as (session, _):
        loop.drive(session, Each(list(claims)))
        held = session.run.finale
    assert held is not None
    assert held.winner == 1
    assert not held.promoted


@pytest.mark.parametrize(("scores", "unmet", "said"), [
    ({4: 0.5}, None, "measured again"),
    ({4: 0.5, 5: 0.4}, None, "the best of 2 measured again"),
    ({5: 0.6, 4: 0.5}, 5, "of 2 measured again #5 had more, but the two were not compared"),
    ({5: 0.6, 4: 0.5, 3: 0.4}, None, "of 3 measured again none is faster for certain"),
])  # fmt: skip
def test_a_champion_is_called_the_best_only_where_it_measured_most(
    scores: dict[int, float], unmet: int | None, said: str
) -> None:
    stood = [Contest(submission=n, sha="", status=Status.PASSED, score=s, processes=1) for n, s in scores.items()]
    by_number = {c.submission: c for c in stood}
    assert finale.stands(by_number[4], stood, by_number.get(unmet or 0)) == said


def test_what_turns_out_wrong_in_the_finale_is_no_headline(tmp_path: Path, blend: Task, judge: Judge) -> None:
    wrong = kernel("out.zero_()")
    claims = {slow(5): 0.5, wrong: 0.9}
    with opened(tmp_path, blend, judge, claims) as (session, _):
        loop.drive(session, Each(list(claims)))
        run = session.run
    assert run.finale is not None
    assert run.finale.winner == 1
    assert run.entry(2).refuted
    assert [e.n for e in finale.top(list(run))] == [1]


def test_the_winner_is_measured_under_lasting_load_too_and_that_is_no_part_of_the_headline(
    tmp_path: Path, lasting: Task, judge: Judge
) -> None:
    claims = {slow(5): 0.5}
    with opened(tmp_path, lasting, judge, claims) as (session, _):
        loop.drive(session, Each(list(claims)))
        run, held = session.run, session.run.finale
    assert held is not None
    shapes = [s.name for s in lasting.timing]
    assert run.errors == []
    assert [(m.shape, m.regime) for m in held.sustained] == [(name, "sustained") for name in shapes]
    assert [m.regime for m in held.measurements] == ["burst"] * len(shapes)
    assert run.measured_again(1) == held.measurements + held.sustained
    assert held.score == score(lasting, product("h200"), held.measurements)
    assert held.sustained_seconds > 0


@pytest.mark.parametrize("error", [Stop("stopped by request"), MachineError("the GPU is gone")])
def test_a_headline_that_stands_is_not_lost_to_what_comes_after(
    tmp_path: Path, lasting: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    claims = {slow(5): 0.5}
    with opened(tmp_path, lasting, judge, claims) as (session, stand):
        measured, asked = stand.remeasure, []

        def remeasure(submission: Submission, source: str, plan: Plan, rival: Rival | None = None) -> StageResult:
            if plan.regime == "sustained":
                asked.append(plan)
                raise error
            return measured(submission, source, plan, rival)

        monkeypatch.setattr(stand, "remeasure", remeasure)
        loop.drive(session, Each(list(claims)))
        held = session.run.finale
    assert held is not None
    assert held.winner == 1
    assert held.sustained == ()
    assert len(asked) == 1


@pytest.mark.parametrize(("budget", "errors"), [(Budget(minutes=1.5), 0), (Budget(), 1)], ids=["the run's", "its own"])
def test_only_a_lasting_load_that_outlasts_its_own_time_is_an_error(
    tmp_path: Path, lasting: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch, budget: Budget, errors: int
) -> None:
    claims = {slow(5): 0.5}
    with opened(tmp_path, lasting, judge, claims, budget) as (session, stand):
        measured, asked = stand.remeasure, []

        def remeasure(submission: Submission, source: str, plan: Plan, rival: Rival | None = None) -> StageResult:
            if plan.regime == "sustained":
                asked.append(plan.seconds)
                source, plan = slow(5000), plan.model_copy(update={"seconds": 0.5})
            return measured(submission, source, plan, rival)

        monkeypatch.setattr(stand, "remeasure", remeasure)
        loop.drive(session, Each(list(claims)))
        run = session.run
    assert len(asked) == 1
    assert run.finale is not None
    assert run.finale.winner == 1
    assert run.finale.sustained == ()
    assert len(run.errors) == errors


@pytest.mark.parametrize("others", [True, False])
def test_a_winner_that_is_wrong_under_lasting_load_does_not_hold_up(
    tmp_path: Path, lasting: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    claims = {slow(4): 0.6} | ({slow(5): 0.5} if others else {})
    with opened(tmp_path, lasting, judge, claims) as (session, stand):
        measured = stand.remeasure

        def remeasure(submission: Submission, source: str, plan: Plan, rival: Rival | None = None) -> StageResult:
            # As one would be that answers with what it remembers once the device is hot.
            if plan.regime == "sustained" and submission.n == 1:
                source = kernel("out.zero_()")
            return measured(submission, source, plan, rival)

        monkeypatch.setattr(stand, "remeasure", remeasure)
        loop.drive(session, Each(list(claims)))
        run = session.run
    assert run.entry(1).refuted
    assert run.finale is not None
    assert run.finale.winner == (2 if others else None)
    assert bool(run.finale.sustained) == others
    again = Run.load(run.folder)
    assert again.finale == run.finale
    assert [e.n for e in finale.top(list(again))] == ([2] if others else [])


def test_after_one_that_does_not_hold_up_the_next_is_measured_for_as_long_as_there_is(
    tmp_path: Path, blend: Task, judge: Judge
) -> None:
    wrong = kernel("out.zero_()")
    claims = {slow(5): 0.5, wrong: 0.9}
    facts = {
        "seconds": {"start": 0.0, "warm": 0.0, "check": 0.0, "quads": 4.0},
        "quads": {s.name: [0.0] * 4 for s in blend.timing},
    }
    quad = 1.0 / len(blend.timing)
    whole = finale.Pace(quad=quad).of(HEADLINE.model_copy(update={"processes": 0}), len(blend.timing))
    with opened(tmp_path, blend, judge, claims, Budget(minutes=(whole + 0.05) / 60)) as (session, stand):
        stand.stages = (StageResult(stage="measure", outcome="passed", facts=facts),)  # type: ignore[arg-type]
        for source in claims:
            session.submit(source, note="", origin="test")
        loop.drive(session, Each([]))
    assert session.run.finale is not None
    assert session.run.finale.winner == 1
    (first, *_), (then, plan, _) = stand.asked
    assert (first, then) == (2, 1)
    assert finale.FEWEST <= plan.quads < HEADLINE.quads


def test_whoever_may_be_promoted_is_compared_before_a_further_one_is_measured(
    tmp_path: Path, blend: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.start()  # what a first contest takes beside others would be its time here
    # The run believed the slowest to be the best; and measuring takes longer than it had shown.
    claims = {slow(8): 0.9, slow(2): 0.5, slow(9): 0.4}
    shapes = len(blend.timing)
    facts = {
        "seconds": {"start": 0.0, "warm": 0.0, "check": 0.0, "quads": 0.12},
        "quads": {s.name: [0.0] * 4 for s in blend.timing},
    }
    pace = finale.Pace(quad=0.03 / shapes, start=0.0)
    one, duel = (pace.of(plan, shapes) for plan in (HEADLINE, PROMOTION))
    seconds = 3 * one + duel + 5.0
    with opened(tmp_path, blend, judge, claims, Budget(minutes=seconds / 60)) as (session, stand):
        stand.stages = (StageResult(stage="measure", outcome="passed", facts=facts),)  # type: ignore[arg-type]
        measured = stand.remeasure

        def late(submission: Submission, *rest: Any) -> StageResult:
            found = measured(submission, *rest)
            if len(stand.asked) == 2:
                time.sleep(max(0.0, seconds - session.charges().seconds - one - 0.5 * duel))
            return found

        monkeypatch.setattr(stand, "remeasure", late)
        for source in claims:
            session.submit(source, note="", origin="test")
        loop.drive(session, Each([]))
    assert [(n, rival is None) for n, _, rival in stand.asked] == [(1, True), (2, True), (2, False)]
    assert session.run.finale is not None
    assert (session.run.finale.winner, session.run.finale.promoted) == (2, True)


def test_a_finale_is_held_once_and_again_after_something_new(tmp_path: Path, blend: Task, judge: Judge) -> None:
    claims = {slow(5): 0.5, slow(4): 0.6}
    first, second = claims
    for sources, contests in (([first], 1), ([first], 1), ([first, second], 2)):
        with opened(tmp_path, blend, judge, claims) as (session, stand):
            loop.drive(session, Each(sources))
            assert session.run.finale is not None
            assert len(session.run.contests) >= contests
    assert len(stand.asked) >= 2


def test_a_run_that_was_asked_to_stop_holds_none(tmp_path: Path, blend: Task, judge: Judge) -> None:
    claims = {slow(5): 0.5}
    with opened(tmp_path, blend, judge, claims) as (session, stand):
        session.submit(slow(5), note="", origin="test")
        session.request_stop()
        loop.drive(session, Each([]))
        assert session.run.finale is None
    assert stand.asked == []


def test_a_judge_that_breaks_costs_the_headline_and_not_the_run(
    tmp_path: Path, blend: Task, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kopt.errors import HarnessError

    def broken(*_: Any) -> StageResult:
        raise HarnessError("the device is busy with somebody else's work")

    claims = {slow(5): 0.5}
    with opened(tmp_path, blend, judge, claims) as (session, stand):
        monkeypatch.setattr(stand, "remeasure", broken)
        loop.drive(session, Each(list(claims)))
    run = Run.load(tmp_path / "submissions" / "run")
    assert run.finale is None
    assert run.errors == ["finale: the device is busy with somebody else's work"]
    assert run.ended == "the proposer has nothing more to offer"


# ---------------------------------------------------------------------------------------------------------------- plans


def test_minutes_include_the_finale(tmp_path: Path, blend: Task, judge: Judge) -> None:
    with opened(tmp_path, blend, judge, {}) as (session, _):
        assert finale.Reserve(Budget(minutes=8), 4)(session.run) == 120
        assert finale.Reserve(Budget(minutes=24 * 60), 4)(session.run) == finale.MOST_S
        assert finale.Reserve(Budget(submissions=3), 4)(session.run) == 0


@pytest.mark.parametrize(("quads", "kept"), [(2.0, 120), (20.0, 139.5), (800.0, 192)])
def test_where_measuring_takes_long_the_finale_has_more_of_the_minutes(
    tmp_path: Path, blend: Task, judge: Judge, quads: float, kept: float
) -> None:
    facts = {
        "seconds": {"start": 2.0, "warm": 1.0, "check": 0.5, "quads": quads},
        "quads": {"a": [0.0] * 4, "b": [0.0] * 4},
    }
    with opened(tmp_path, blend, judge, {slow(1): 0.5}) as (session, stand):
        stand.stages = (StageResult(stage="measure", outcome="passed", facts=facts),)  # type: ignore[arg-type]
        session.submit(slow(1), note="", origin="test")
        assert finale.Reserve(Budget(minutes=8), 4)(session.run) == pytest.approx(kept)


def test_time_is_spent_on_measuring_few_well_rather_than_many_badly() -> None:
    quick = finale.Pace(quad=0.3, start=5.0, check=2.0)
    assert finale.plans(None, quick, 4) == (HEADLINE, 5)
    one = quick.of(HEADLINE, 4)
    plan, count = finale.plans(one + 1, quick, 4)
    assert (plan, count) == (HEADLINE, 1)
    plan, count = finale.plans(one - 8, quick, 4)
    assert plan is not None
    assert finale.FEWEST <= plan.quads < HEADLINE.quads
    assert count == 1
    assert quick.of(plan, 4) <= one - 8
    assert finale.plans(5.0, quick, 4) == (None, 0)
    counts = [finale.plans(seconds, quick, 4)[1] for seconds in range(20, 600, 20)]
    assert counts == sorted(counts)
    assert counts[-1] == 5


def test_the_pace_is_what_the_run_has_seen(blend: Task) -> None:
    facts = {
        "seconds": {"start": 2.0, "warm": 1.0, "check": 0.5, "quads": 8.0},
        "quads": {"a": [0.0] * 4, "b": [0.0] * 4},
    }
    stage = StageResult(stage="measure", outcome="passed", facts=facts)  # type: ignore[arg-type]
    verdict = Verdict(
        submission=1, sha="x", status=Status.PASSED, stages=(stage,), target="h200", toolchain=TOOLCHAIN, evaluator=1
    )
    assert finale.pace(iter([verdict, None])) == finale.Pace(1.0, 3.0, 0.5)
    alone = {**facts, "quads": {"a": [], "b": []}, "shapes": {"a": {"batches": 4}, "b": {"batches": 4}}}
    batches = verdict.model_copy(update={"stages": (stage.model_copy(update={"facts": alone}),)})
    assert finale.pace(iter([batches])) == finale.Pace(1.0, 3.0, 0.5, 20)
    assert finale.pace(iter([])) == finale.Pace()


def test_a_contest_without_an_opponent_counts_its_batches(blend: Task) -> None:
    submission = Submission(n=1, sha="x", origin="test")
    shapes = {"a": {"batches": 20}, "b": {"batches": 12}}
    facts = {"quads": {"a": [], "b": []}, "shapes": shapes}
    result = StageResult(stage="measure", outcome="failed", facts=facts, findings=(  # type: ignore[arg-type]
        Finding(rule="judge.deadline", message="no", status=Status.TIMEOUT),
    ))  # fmt: skip
    assert contest(blend, product("h200"), submission, result, HEADLINE).batches == 12
