"""Batches of one measurement: each with its deadline, its rest and its check, and Rejected for what it wrote."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from kopt.judge.arms import Arm, Batch, run
from kopt.judge.backends import JudgeSide, Sample
from kopt.judge.crew import CANDIDATE, RIVAL, TRUSTED, Crew, Rejected
from kopt.judge.deck import Call
from kopt.judge.plan import BATCH_US, HEAT_S, IDLE_S, Plan, Regime
from kopt.judge.runners import Mode
from kopt.judge.series import Null
from kopt.judge.snapshot import Look
from kopt.judge.stopwatch import Stopwatch
from kopt.records import Finding, Status, Task

_PATIENCE = 30.0
"""Seconds for a batch of the baseline, whatever the plan gives a candidate."""


class Batches:
    """Asks the arms of a crew for batches, until the plan's time is over."""

    def __init__(
        self, backend: JudgeSide, task: Task, crew: Crew, regime: Regime, plan: Plan, *, started: float
    ) -> None:
        """`started` is when the plan's seconds began, by the monotonic clock."""
        self._backend, self._task, self._crew, self._regime, self._plan = backend, task, crew, regime, plan
        self._launch: Mode = task.score.launch
        self.rest = plan.rest * IDLE_S[regime] if plan.idle_s is None else plan.idle_s
        """Seconds before a batch that is timed."""
        self._null_us = min(plan.batch_us or math.inf, BATCH_US["burst"])
        self._worked = time.monotonic()
        self._end = started + plan.seconds
        self.watch = Stopwatch()
        """The parts of all batches."""

    @property
    def captured(self) -> bool:
        """Whether timed calls come from a CUDA graph, which costs no host code a call."""
        return self._launch == "graph"

    @property
    def time_left(self) -> float:
        """Seconds; negative when the plan's time is over."""
        return self._end - time.monotonic()

    def ask(
        self,
        arm: Arm,
        calls: Sequence[Call],
        *,
        family: str = "",
        first: bool = False,
        rest: bool = False,
        mode: Mode | None = None,
        like: Batch | None = None,
        look: Look = "whole",
        keep: bool = False,
        repeat: int = 1,
        count: bool = False,
        busy_us: float = 0.0,
    ) -> Batch:
        """One batch, checked. Rejected for what it wrote.

        Without a `mode`, calls are made as the task wants them timed, a `first` batch's one by one. Where they cannot
        be captured in a graph, that is Rejected, or a batch of no calls if it was the caller's wish. A `first` one may
        compile. One to be timed starts after the regime's `rest`. The others are as in `arms.run`.
        """
        assert arm.deck is not None
        wanted: Mode = mode or ("eager" if first or not calls else self._launch)
        # A later batch that began in time may end: what its quad has shown would be lost with it.
        seconds = min(self._plan.call_seconds, max(0.1, self.time_left)) if first else 0.2 * self._plan.call_seconds
        if arm.label == TRUSTED:
            # Ours: when it is late the machine is busy, and no candidate is to blame.
            seconds = max(seconds, _PATIENCE)
        arm.aside.go_on()
        if arm.label in (CANDIDATE, RIVAL) and (found := arm.aside.finding(arm.label)):
            raise Rejected(found, arm.label)
        batch = run(
            self._backend,
            arm,
            calls,
            family=family or self._task.timed_family(arm.deck.shape),
            seconds=seconds,
            mode=wanted,
            rest=self.rest if rest else 0.0,
            worked=self._worked,
            heat=HEAT_S[self._regime] if rest and calls else 0.0,
            like=like,
            look=look,
            keep=keep,
            repeat=repeat,
            count=count,
            busy_us=busy_us,
            watch=self.watch,
        )
        arm.aside.halt()
        if batch is None and mode is None:
            message = f"the {arm.label}'s calls cannot be captured in a CUDA graph, from which this task's are timed"
            message += f" ({why})" if (why := arm.runner.refusal) else ""
            raise Rejected(Finding(rule="judge.graph", message=message, status=Status.REJECTED), arm.label)
        if batch is None:
            return Batch(0.0, 0.0, 0, Sample())
        self._worked = batch.worked
        if batch.finding is not None:
            raise Rejected(batch.finding, arm.label)
        return batch

    def null(self, *, bare: bool = False) -> Null:
        """What a batch without calls takes besides its work, by the trusted runner; a `bare` one has next to none."""
        # After the same rest as any other batch, and as long as a burst: what a device takes to wake up is no kernel's
        # doing, nor is what it takes, after milliseconds of work, to change contexts and have its end noticed.
        batch = self.ask(self._crew[TRUSTED], [], rest=True, busy_us=0.0 if bare else self._null_us)
        return Null(batch.us, batch.reveal_us)
