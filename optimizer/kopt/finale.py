"""The finale of a measured run: its best submissions are measured again, and only that is the headline.

What a run measured on its way chose the finalists, and the best of many noisy numbers is always too good. So each of
the top five is measured once more against the task's baseline, in fresh processes with fresh inputs; then whoever did
better there than the incumbent meets it in quads of the two, and takes its place by the rule of `judge.promotes`. With
what time is left the winner is measured under lasting load, which is shown beside the headline and is no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kopt.budget import Budget
from kopt.errors import HarnessError, KoptError, MachineError, RivalFailed
from kopt.evaluate import VERSION
from kopt.evaluate.contest import contest
from kopt.judge.plan import HEADLINE, HEAT_S, LASTING, PROMOTION, WARM_S, Plan, Rival
from kopt.judge.statistics import promotes
from kopt.machine.products import product
from kopt.records import Contest, Evidence, Finale, Finding, Measurement, Outcome, Status, Verdict
from kopt.run import Entry, Run
from kopt.session import Session, Stop

FINALISTS = 5
RESERVE, MOST_RESERVE = 0.25, 0.4
"""Part of --minutes that is kept for the finale: at least, and where measurements take long."""
MOST_S = 900.0
FEWEST = 8
"""Quads per shape below which there is no headline: a finale that has less time than that is not held."""
_EXTRAS, _EXTRA_BATCHES = 5, 20
"""What replays, counters and batches of other lengths cost at every shape, in quads; and in single batches, for a task
without a baseline."""
_LASTING_S = 0.25
"""Seconds of a batch under lasting load, what is drawn and checked included."""
_QUAD_S, _START_S = 1.0, 10.0
"""Seconds of a quad, and of a process at all shapes, where the run has not measured them."""


class Pace(NamedTuple):
    """What measuring costs here, in seconds, as this run has seen it."""

    quad: float = _QUAD_S
    start: float = _START_S
    """Of a fresh process: its start, and its first calls at every shape."""
    check: float = 0.0
    extras: int = _EXTRAS
    """Quads, or batches, at every shape beside those that are asked for."""

    def of(self, plan: Plan, shapes: int) -> float:
        return shapes * (plan.quads + self.extras) * self.quad + plan.processes * self.start + self.check

    def lasting(self, shapes: int) -> float:
        """Of `LASTING`: four batches a quad where there is a baseline, each heated for and of 100 ms."""
        batches = LASTING.quads * (4 if self.extras == _EXTRAS else 1)
        return shapes * (WARM_S + batches * (HEAT_S["sustained"] + _LASTING_S) + self.quad) + self.start


class Reserve:
    """Seconds of a budget's minutes that the finale of a measured run may count on: a part of them, and more where the
    shortest finale takes more, as far as the run's measurements have shown."""

    def __init__(self, budget: Budget, shapes: int) -> None:
        self._minutes, self._shapes = budget.minutes, shapes
        self._shortest, self._seen = 0.0, 0

    def __call__(self, run: Run) -> float:
        if self._minutes is None:
            return 0.0
        least, most = (min(MOST_S, part * 60 * self._minutes) for part in (RESERVE, MOST_RESERVE))
        judged = len(run.entries) - (run.pending is not None)
        if judged != self._seen:
            if found := top(list(run))[:FINALISTS]:
                self._shortest = pace(run.verdict(e.n) for e in found).of(_shorter(FEWEST), self._shapes)
            self._seen = judged
        return min(most, max(least, self._shortest))


def hold(session: Session) -> Finale | None:
    """Hold the finale of a measured run and journal it; None when there is none to hold.

    A machine or judge that breaks ends the finale with an error in the journal, not the run.
    """
    run = session.run
    if not session.measures or session.stopping or run.finale is not None:
        return None
    while finalists := top(list(run)):
        held = _Round(session, finalists)
        try:
            finale = held.held()
        except Stop:
            return None
        except KoptError as error:
            session.record("error", message=f"finale: {error}")
            return None
        # Journaled first: a headline that stands is not lost to whatever ends this process now.
        session.record("finale", finale=finale.model_dump(mode="json"))
        if finale.winner is None:
            break
        try:
            after = held.lasting(finale, finale.winner)
        except Stop:
            break
        except KoptError as error:
            session.record("error", message=f"finale: under lasting load: {error}")
            break
        if after is not finale:
            session.record("finale", finale=after.model_dump(mode="json"))
        if after.winner is not None:
            break
    return run.finale


def top(entries: list[Entry]) -> list[Entry]:
    """All that were measured and passed, the best first."""
    scored = [e for e in entries if e.score is not None and e.evidence is Evidence.MEASURED and not e.refuted]
    return sorted(scored, key=lambda e: (-(e.score or 0.0), e.n))


def pace(verdicts: Iterator[Verdict | None]) -> Pace:
    """From the phases of measurements that the run has made."""
    found = []
    for verdict in verdicts:
        stage = next((s for s in verdict.stages if s.stage == "measure"), None) if verdict else None
        seconds = stage.facts.get("seconds", {}) if stage else {}
        quads = sum(map(len, stage.facts.get("quads", {}).values())) if stage else 0
        batches = sum(shape.get("batches", 0) for shape in stage.facts.get("shapes", {}).values()) if stage else 0
        if (quads or batches) and "quads" in seconds:
            start = seconds.get("start", 0.0) + seconds.get("warm", 0.0)
            extras = _EXTRAS if quads else _EXTRA_BATCHES
            found.append(Pace(seconds["quads"] / (quads or batches), start, seconds.get("check", 0.0), extras))
    # The slowest of what was seen: a finale that runs late costs the headline.
    return Pace(*(max(column) for column in zip(*found, strict=True))) if found else Pace()


def plans(left: float | None, pace: Pace, shapes: int) -> tuple[Plan | None, int]:
    """The plan of each contest against the baseline and how many of them fit into `left` seconds; (None, 0): no time.

    One that is measured well is worth more than five that are not.
    """
    if left is None:
        return HEADLINE, FINALISTS
    for count in range(FINALISTS, 0, -1):
        duel = pace.of(PROMOTION, shapes) if count > 1 else 0.0
        if count * pace.of(HEADLINE, shapes) + duel <= left:
            return HEADLINE, count
    for quads in range(HEADLINE.quads - 1, FEWEST - 1, -1):
        shorter = _shorter(quads)
        if pace.of(shorter, shapes) <= left:
            return shorter, 1
    return None, 0


def _shorter(quads: int) -> Plan:
    return HEADLINE.model_copy(update={"quads": quads, "processes": PROMOTION.processes})


class _Round:
    """One finale while it goes on."""

    def __init__(self, session: Session, finalists: list[Entry]) -> None:
        self._session, self._finalists = session, finalists
        self._shapes = len(session.task.timing)
        self._pace = pace(session.run.verdict(e.n) for e in finalists[:FINALISTS])
        self._submissions = len(session.run.entries)

    def held(self) -> Finale:
        plan, count = plans(self._left(), self._pace, self._shapes)
        incumbent = self._finalists[0]
        if plan is None:
            return self._closed(None, None, "no time was left to measure anything again")
        contests: list[Contest] = []
        for entry in self._finalists:
            passed = sum(c.passed for c in contests)
            # Who is measured and cannot meet the one before is no winner: there has to be time for both.
            if passed == count or (passed and self._short_of(plan, PROMOTION)):
                break
            if contests and not passed:
                # Those before did not hold up; what time is left may do for fewer, or for a shorter one.
                plan, count = plans(self._left(), self._pace, self._shapes)
                if plan is None:
                    break
            contests.append(self._contest(entry, plan, None))
        stood = sorted((c for c in contests if c.passed), key=lambda c: -(c.score or 0.0))
        if not stood:
            late = "; no time was left for others" if plan is None else ""
            return self._closed(None, None, f"none of {len(contests)} held up{late}")
        champion = next((c for c in contests if c.submission == incumbent.n and c.passed), None)
        if champion is None:
            # Whoever was thought to be the best is not even right: the next best one by the earlier data.
            champion = next(c for c in contests if c.passed)
        unmet = None
        for challenger in stood:
            if challenger.submission == champion.submission:
                break
            if self._short_of(PROMOTION):
                unmet = challenger
                break
            try:
                duel = self._contest(self._session.run.entry(challenger.submission), PROMOTION, champion.submission)
            except RivalFailed as error:
                return self._fallen(champion, challenger, stood, incumbent, str(error))
            except (HarnessError, MachineError) as error:
                # Two kernels beside the judge may be more than a device has room for: what was won stays won.
                self._session.record("error", message=f"finale: no comparison of the two: {error}")
                unmet = challenger
                break
            if duel.passed and promotes(list(duel.quads.values()), self._submissions):
                # Being best among those measured against the baseline chose it, so its number comes from the duel.
                taken = _with_baseline(duel.measurements, challenger.measurements)
                reason = f"promoted over submission {champion.submission} in a comparison of the two"
                won = duel.model_copy(update={"measurements": taken})
                return self._closed(won, incumbent, reason, promoted=True)
        return self._closed(champion, incumbent, stands(champion, stood, unmet))

    def _fallen(
        self, champion: Contest, challenger: Contest, stood: Sequence[Contest], incumbent: Entry, why: str
    ) -> Finale:
        """The finale when the champion, right alone, did not hold up beside a challenger: the best other one has it.

        Else whoever tells that it is compared could keep its place by breaking off every comparison.
        """
        message = f"beside submission {challenger.submission}: {why}"
        finding = Finding(rule="judge.rival", message=message, status=Status.CRASHED)
        lost = champion.model_copy(
            update={"against": challenger.submission, "status": Status.CRASHED, "findings": (finding,), "score": None,
                    "measurements": (), "quads": {}, "batches": 0, "seconds": 0.0}
        )  # fmt: skip
        self._session.record("contest", contest=lost.model_dump(mode="json"))
        best = next(c for c in stood if c.submission != champion.submission)
        return self._closed(best, incumbent, f"submission {champion.submission} did not hold up in a comparison")

    def _contest(self, entry: Entry, plan: Plan, against: int | None) -> Contest:
        session, run = self._session, self._session.run
        rival = None
        if against is not None:
            rival = Rival(source=run.source(against), parameters=run.entry(against).submission.parameters)
        result = session.remeasure(entry.n, plan, rival)
        found = contest(session.task, product(run.meta.target), entry.submission, result, plan, against)
        session.record("contest", contest=found.model_dump(mode="json"))
        return found

    def _closed(self, won: Contest | None, incumbent: Entry | None, reason: str, *, promoted: bool = False) -> Finale:
        first = incumbent or self._finalists[0]
        return Finale(
            winner=won.submission if won else None,
            score=won.score if won else None,
            measurements=won.measurements if won else (),
            quads=won.fewest if won else 0,
            batches=won.batches if won else 0,
            incumbent=first.n,
            promoted=promoted,
            submissions=self._submissions,
            target=self._session.run.meta.target,
            toolchain=self._session.toolchain,
            evaluator=VERSION,
            reason=reason,
        )

    def lasting(self, finale: Finale, n: int) -> Finale:
        """The finale with its winner `n` under lasting load; as it was where there is not the time, or it cannot be.

        A winner whose results are wrong then, or that is caught, did not hold up: that is journaled as any other
        contest, and the finale is without one.
        """
        session, left = self._session, self._left()
        if "sustained" not in session.task.regimes or (left is not None and self._pace.lasting(self._shapes) > left):
            return finale
        plan = LASTING if left is None else LASTING.model_copy(update={"seconds": min(LASTING.seconds, left)})
        result = session.remeasure(n, plan)
        if result.outcome is Outcome.PASSED:
            times = tuple(result.artifacts.get("measurements", ()))
            return finale.model_copy(update={"sustained": times, "sustained_seconds": round(result.seconds, 3)})
        submission = session.run.entry(n).submission
        found = contest(session.task, product(session.run.meta.target), submission, result, plan)
        if found.status in (Status.WRONG, Status.REJECTED):
            session.record("contest", contest=found.model_dump(mode="json"))
            return self._closed(None, None, f"submission {n} did not hold up under lasting load")
        if found.status is Status.TIMEOUT and plan.seconds < LASTING.seconds:
            return finale  # The run's time was up, and not the kernel's.
        why = next((str(f) for f in found.findings if f.status), str(found.status))
        session.record("error", message=f"finale: under lasting load: {why}")
        return finale

    def _left(self) -> float | None:
        minutes = self._session.budget.minutes
        return None if minutes is None else 60 * minutes - self._session.charges().seconds

    def _short_of(self, *plans: Plan) -> bool:
        left = self._left()
        return left is not None and sum(self._pace.of(plan, self._shapes) for plan in plans) > left


def stands(champion: Contest, stood: Sequence[Contest], unmet: Contest | None) -> str:
    """Why a champion that nobody was promoted over stands, of those that held up, the best first; `unmet`: the first of
    them that had more and was not compared with it, for want of time or because the device could not."""
    if len(stood) == 1:
        return "measured again"
    if stood[0].submission == champion.submission:
        return f"the best of {len(stood)} measured again"
    if unmet is not None:
        return f"of {len(stood)} measured again #{unmet.submission} had more, but the two were not compared"
    return f"of {len(stood)} measured again none is faster for certain"


def _with_baseline(fresh: tuple[Measurement, ...], other: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
    """Measurements of a duel with the ratio to the baseline from the contest before, by shape."""
    ratios = {m.shape: m.baseline_ratio for m in other}
    return tuple(m.model_copy(update={"baseline_ratio": ratios.get(m.shape)}) for m in fresh)
