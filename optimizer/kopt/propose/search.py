"""The embedded proposer, which needs no model: climbs the ladder of families, then tunes where the gain is.

First every family's default, in the order of their rungs. Then rounds of tuning trials, each given to the family with
the highest upper confidence bound on its best score; a family whose trials beat what it has submitted submits its best
point. Every decision is a function of the run's history, so a resumed run makes the same ones.
"""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path
from typing import NamedTuple

from kopt import content
from kopt.errors import UsageError
from kopt.evaluate.tuner import BATCH
from kopt.propose.feedback import changed
from kopt.records import Status, Task
from kopt.run import Entry
from kopt.session import Session
from kopt.source import KernelSource, SourceError, parse, read

EXPLORATION = 0.3
"""Weight of the confidence bound, in units of the best score: families within about half of the best get tried."""

GAIN = 0.01
"""Relative gain over a family's best submission that makes a tuned point worth a submission in the middle of a run."""


class Family(NamedTuple):
    """A kernel file with its declared space."""

    name: str
    source: KernelSource


def ladder(task: Task, workspace: Path, start: str = "", *, arch: int) -> list[Family]:
    """The task's families for an architecture in the order of their rungs, behind the user's own kernel if any."""
    families = []
    for path in content.families(task, workspace):
        try:
            source = parse(read(path), task.entry)
        except SourceError as error:
            raise UsageError(f"{path}, line {error.line or 1}: {error}") from error
        if not source.archs or arch in source.archs:
            families.append(Family(path.stem, source))
    families.sort(key=lambda f: (f.source.rung if f.source.rung is not None else 1 << 30, f.name))
    if start:
        try:
            families.insert(0, Family("start", parse(start, task.entry)))
        except SourceError as error:
            raise UsageError(f"the kernel to start from, line {error.line or 1}: {error}") from error
    if not families:
        # Wrong on purpose, but it shows the way through the stages, and what the first family has to get right.
        families.append(Family("skeleton", parse(content.skeleton(task), task.entry)))
    return families


class Search:
    """See the module's text."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def drive(self, session: Session) -> None:
        heads = self._visit(session)
        exhausted: set[int] = set()
        # A batch that an interruption cut short is completed before anything is decided on it; one that was complete
        # has yet to be drawn on. In a run that begins here, there is neither.
        turn = next((n for n in heads if len(session.run.entry(n).trials) % BATCH), None)
        if turn is None:
            self._promote_all(session, heads)
        while turn is not None or (turn := self._choose(session, heads, exhausted)) is not None:
            before = len(session.run.entry(turn).trials)
            if len(session.tune(turn, BATCH - before % BATCH)) == before:
                exhausted.add(turn)
            self._promote_all(session, heads)
            turn = None
        for n in sorted(heads, key=lambda n: -best_score(session, n)):
            self._promote(session, n, heads[n], 0.0)

    def _visit(self, session: Session) -> dict[int, Family]:
        """Submit every family's default; returns families by the number of that submission."""
        heads: dict[int, Family] = {}
        parent: int | None = None
        for family in self._families:
            verdict = session.submit(
                family.source.text, note=family.source.title or family.name, origin="search", parent=parent
            )
            n = session.run.by_sha[verdict.sha]
            heads[n] = family
            parent = n
        return heads

    def _choose(self, session: Session, heads: dict[int, Family], exhausted: set[int]) -> int | None:
        """The family that the next round of trials goes to, or None when no trial can be made."""
        if session.budget.trials_left(session.run.charges) == 0:
            return None
        open_ = [n for n in heads if n not in exhausted and heads[n].source.tune and tunable(session.run.entry(n))]
        if not open_:
            return None
        top = max((best_score(session, n) for n in heads), default=0.0) or 1.0
        total = sum(len(session.run.entry(n).trials) for n in heads)

        def bound(n: int) -> float:
            tried = len(session.run.entry(n).trials)
            return best_score(session, n) / top + EXPLORATION * sqrt(log(total + 2) / (tried + 1))

        return max(open_, key=lambda n: (bound(n), -n))

    def _promote_all(self, session: Session, heads: dict[int, Family]) -> None:
        for n, family in heads.items():
            self._promote(session, n, family, GAIN)

    def _promote(self, session: Session, n: int, family: Family, gain: float) -> None:
        """Submit the best tuned point of a family if it beats what the family has submitted so far."""
        entry = session.run.entry(n)
        submitted = best_submitted(session, n)
        for row in sorted(entry.trials, key=lambda row: -(row.score or 0.0)):
            if row.score is None or row.score <= submitted * (1.0 + gain) or row.score <= submitted:
                return
            parameters = {**entry.submission.parameters, **row.parameters}
            verdict = session.submit(
                family.source.text,
                note=f"{family.name}: {changed(family.source.defaults, parameters)}",
                origin="search",
                parent=n,
                parameters=parameters,
            )
            if verdict.passed:
                return


def tunable(entry: Entry) -> bool:
    """Whether other parameters could help: not when the file itself is refused or computes the wrong thing."""
    return entry.status in (Status.PASSED, Status.COMPILE_ERROR)


def best_score(session: Session, n: int) -> float:
    """Best score a family has shown, submitted or tried."""
    trials = [row.score for row in session.run.entry(n).trials if row.score is not None]
    return max([best_submitted(session, n), *trials])


def best_submitted(session: Session, n: int) -> float:
    scores = [
        e.score for e in session.run if e.score is not None and (e.n == n or (e.submission.parent == n and _tuned(e)))
    ]
    return max(scores, default=0.0)


def _tuned(entry: Entry) -> bool:
    return bool(entry.submission.parameters)
