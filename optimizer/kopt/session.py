"""A live run: the journal, the budget and the evaluator together. The only writer of a run.

Proposers call `submit`, `tune`, `screen` and `lesson`; everything they do is journaled before and after, charged here
and nowhere else, and refused with `Stop` once the budget is spent or the user asked to end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kopt import trials
from kopt.budget import Budget, Charges
from kopt.errors import HarnessError, UsageError
from kopt.evaluate import tuner
from kopt.evaluate.evaluator import Evaluator
from kopt.journal import Event, Journal
from kopt.judge.plan import Plan, Rival
from kopt.meta import write_whole
from kopt.observe import Observer
from kopt.records import (
    Evidence,
    KernelFacts,
    Parameters,
    StageResult,
    Submission,
    Task,
    Toolchain,
    Verdict,
    digest,
    pinned,
)
from kopt.run import Entry, Run, TrialRow
from kopt.source import Choice, KernelSource, SourceError, essence, parse
from kopt.turns import Turns

if TYPE_CHECKING:
    from kopt.evaluate.sass import Instruction
    from kopt.profile import Profile


class Stop(Exception):
    """Nothing further may start; the text says why. Proposers let it pass."""


_FIRST_BATCH = 1.5
"""A first batch of trials takes about so much longer than the submission did: 1.0 to 1.5 times in runs of MSA."""


class Session:
    """One process's hold on a run.

    One proposer drives it; others may join through the run's socket from threads of their own. Evaluations take turns,
    in the order asked for; reading the run needs no turn.
    """

    def __init__(
        self,
        run: Run,
        log: Journal,
        task: Task,
        evaluator: Evaluator,
        budget: Budget,
        observers: Iterable[Observer] = (),
        reserve: Callable[[Run], float] = lambda run: 0.0,
    ) -> None:
        """`reserve`: of a run so far, the seconds at the end of the budget's minutes in which no proposer may start
        anything.

        HarnessError when this version does not understand the run's journal.
        """
        run.ready()
        self.run = run
        self.task = task
        self.budget = budget
        self.seed = run.meta.seed
        self._log = log
        self._evaluator = evaluator
        self._observers = tuple(observers)
        self._reserve = reserve
        self._batch_seconds = self._verdict_seconds = 0.0
        """Of the last batch of trials, and of the last submission."""
        self._stop = threading.Event()
        self._turns = Turns()
        self._writing = threading.Lock()
        self._calling = threading.Lock()
        self._in_flight = 0
        """Tool calls that have begun and are not charged yet."""

    # What a proposer may ask for.

    def submit(
        self,
        source: str,
        *,
        note: str,
        origin: str,
        parent: int | None = None,
        parameters: Parameters | None = None,
        call: str = "",
    ) -> Verdict:
        """Record a submission, evaluate it, and return its verdict; Stop when the budget does not allow it.

        A duplicate is answered with the verdict it already has and costs nothing. `call` names the tool call behind it.
        """
        try:
            parameters = dict(pinned(parameters or {}))
        except ValueError as error:
            raise UsageError(f"parameters: {error}") from None
        with self._turns:
            known = self.known(source, parameters)
            if known is not None and (verdict := self.run.verdict(known)) is not None:
                return verdict
            self.check(self._verdict_seconds)
            if parent is not None:
                self.run.entry(parent)
            n = len(self.run.entries) + 1
            sha = digest(source, parameters)
            submission = Submission(n=n, sha=sha, parameters=parameters, parent=parent, origin=origin, note=note)
            try:
                # The source is whole on disk before the journal speaks of it.
                write_whole(self.run.folder / "sources" / submission.file, source)
            except OSError as error:
                raise HarnessError(f"cannot write the source of submission {n}: {error.strerror}") from error
            named = {"call": call} if call else {}
            code = essence(source, self.task.entry, parameters)
            self._append("proposed", submission=submission.model_dump(mode="json"), code=code, **named)
            return self._judge(submission, source)

    def known(self, source: str, parameters: Parameters | None = None) -> int | None:
        """The submission that is the same but for comments and layout, if there is one."""
        known = self.run.by_sha.get(digest(source, parameters))
        if known is None:
            known = self.run.by_code.get(essence(source, self.task.entry, parameters))
        return known

    def screen(self, source: str, parameters: Parameters | None = None) -> Verdict:
        """What can be said without a GPU, of a source that is not to be a submission."""
        with self._turns:
            self.check()
            return self._evaluator.screen(source, parameters)

    def kernels(self, n: int) -> Mapping[str, KernelFacts]:
        """The compiled kernels of a submission with the line tables that the journal does not keep."""
        with self._turns:
            return self._evaluator.kernels(self.run.entry(n).submission, self.run.source(n))

    def counters(self, n: int, shape: str = "") -> list[Profile]:
        """What the GPU's counters say of a submission's kernels; see `Evaluator.counters`."""
        with self._turns:
            entry = self.run.entry(n)
            return self._evaluator.counters(entry.submission, self.run.source(n), shape)

    def remeasure(self, n: int, plan: Plan, rival: Rival | None = None) -> StageResult:
        """Measure a submission once more, by a plan of one's own; nothing is journaled here."""
        submission = self.run.entry(n).submission
        with self._turns:
            self._stage(n, "measure")
            return self._evaluator.remeasure(submission, self.run.source(n), plan, rival)

    @property
    def toolchain(self) -> Toolchain:
        return self._evaluator.toolchain

    def hot_loop(self, kernel: KernelFacts) -> tuple[Instruction, ...]:
        """Instructions of the hot loop of one of `kernels`."""
        with self._turns:
            return self._evaluator.hot_loop(kernel)

    @property
    def measures(self) -> bool:
        """Whether scores come from a clock here, not from a model."""
        return self._evaluator.evidence is Evidence.MEASURED

    def tune(self, n: int, count: int) -> list[TrialRow]:
        """Try up to `count` further parameter points of a submission; returns all that were ever tried, in order.

        Points come in whole batches, so that what is suggested depends on the journal alone. Fewer than asked for come
        back when the space or the trial budget runs out.
        """
        entry, source = self.run.entry(n), self.run.source(n)
        described = self.describe(source)
        want = len(entry.trials) + count
        with self._turns:
            while len(entry.trials) < want:
                self.check(self._batch_seconds or _FIRST_BATCH * self._verdict_seconds)
                left = self.budget.trials_left(self.run.charges)
                batch = trials.following(entry, described, self.seed)
                done = len(entry.trials) % tuner.BATCH
                batch = batch[done : None if left is None else done + left]
                if not batch:
                    break
                began = time.monotonic()
                self._try(entry, source, batch)
                self._batch_seconds = time.monotonic() - began
        return list(entry.trials)

    def describe(self, source: str) -> KernelSource:
        """What a source says about itself; UsageError when it cannot be read."""
        try:
            return parse(source, self.task.entry)
        except SourceError as error:
            raise UsageError(str(error)) from error

    def lesson(self, text: str, *, call: str = "") -> None:
        """Keep something learnt beyond the episode that learnt it. `call` names the tool call behind it."""
        if call and call in self.run.lesson_calls:
            return  # kept before a crash that lost the answer
        self._append("lesson", text=text, **({"call": call} if call else {}))

    def charge(self, **amounts: float) -> None:
        """Charge tool calls and dollars."""
        unknown = set(amounts) - set(Charges.model_fields)
        if unknown:
            raise ValueError(f"no such charge: {', '.join(sorted(unknown))}")
        self._append("charge", **amounts)

    def record(self, type: str, **payload: Any) -> Event:
        """Journal an event of the dialogue with a model, an agent or a client (see dialogue.py)."""
        return self._append(type, **payload)

    @contextmanager
    def call(self) -> Iterator[Callable[..., None]]:
        """Around a tool call; yields what journals its event, which charges it. Stop when the budget does not allow it.

        Calls in flight count as made, or as many as there are visitors would pass the last one's check together.
        """
        with self._calling:
            self.check(calls=self._in_flight)
            self._in_flight += 1
        charged = False

        def charge(**payload: Any) -> None:
            nonlocal charged
            with self._calling:
                self._in_flight -= 1
                charged = True
                self._append("tool", **payload)

        try:
            yield charge
        finally:
            if not charged:
                with self._calling:
                    self._in_flight -= 1

    def charges(self) -> Charges:
        """What is spent by now."""
        return self.run.charges.model_copy(update={"seconds": self._log.elapsed})

    def check(self, ahead: float = 0.0, calls: int = 0) -> None:
        """Raise Stop when nothing further may start; it will take some `ahead` seconds, which the finale would lack.

        `calls` is how many tool calls are not charged yet.
        """
        if self._stop.is_set():
            raise Stop("stopped by request")
        best = self.run.incumbent.score if self.run.incumbent else None
        charges = self.charges()
        kept = self._reserve(self.run)
        kept += min(ahead, kept)
        charges = charges.model_copy(
            update={"seconds": charges.seconds + kept, "tool_calls": charges.tool_calls + calls}
        )
        if reason := self.budget.spent(charges, best, self.run.stale):
            raise Stop(reason)

    @property
    def stopping(self) -> bool:
        """Whether the user asked to end."""
        return self._stop.is_set()

    def waited(self) -> float:
        """Seconds the calling thread has waited for its turn since it last asked."""
        return self._turns.waited()

    # What the loop does with it.

    def request_stop(self) -> None:
        """Ask the run to end after the current step; safe to call from a signal handler."""
        self._stop.set()
        self._evaluator.hurry()
        for observer in self._observers:
            observer.on_stopping()

    def began(self, **context: Any) -> None:
        self._append("started", **context)

    def ended(self, reason: str) -> None:
        self._append("stopped", reason=reason)

    def finish_pending(self) -> None:
        """Evaluate what a dead process had proposed; it was charged then and is not charged again."""
        with self._turns:
            if (pending := self.run.pending) is not None:
                self._judge(pending.submission, self.run.source(pending.n))

    # How it is done.

    def _judge(self, submission: Submission, source: str) -> Verdict:
        began = time.monotonic()
        verdict = self._evaluator.judge(submission, source, lambda stage: self._stage(submission.n, stage))
        self._verdict_seconds = time.monotonic() - began
        self._append("verdict", verdict=verdict.model_dump(mode="json"), reason=verdict.reason)
        return verdict

    def _try(self, entry: Entry, source: str, batch: list[dict[str, Choice]]) -> None:
        since = time.monotonic()
        for trial in trials.tried(self._evaluator, entry, source, batch, self._stage):
            # Trials overlap: their own seconds add up to more than the clock shows.
            now = time.monotonic()
            self._append("trial", trial=trial.model_dump(mode="json"), wall=round(now - since, 3))
            since = now

    def _append(self, type: str, **payload: Any) -> Event:
        with self._writing:
            event = self._log.append(type, **payload)
            self.run.apply(event)
            self.run.ready()
            for observer in self._observers:
                observer.on_event(event, self.run)
        return event

    def _stage(self, n: int, stage: str, trial: int | None = None) -> None:
        """Between two stages: the place where a run ends on request, leaving the submission to whoever resumes."""
        if self._stop.is_set():
            raise Stop("stopped by request")
        for observer in self._observers:
            observer.on_stage(n, stage, trial)
