"""Who takes part in one measurement: the baseline, the candidate, perhaps an incumbent. Hired, dismissed, handed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kopt.errors import HarnessError
from kopt.judge.arms import Arm
from kopt.judge.runners import RunnerFailed
from kopt.records import Finding, Parameters, Task

if TYPE_CHECKING:
    from kopt.judge.bench import Bench

TRUSTED, CANDIDATE, RIVAL = "baseline", "kernel", "incumbent"
_RUNNERS = 2
"""That are tried: one which has waited may have died meanwhile."""


class Rejected(Exception):
    """What an arm did cannot stand; the finding says why."""

    def __init__(self, finding: Finding, label: str = CANDIDATE) -> None:
        super().__init__(str(finding))
        self.finding, self.label = finding, label


class Crew:
    """The arms that are alive, by label. At most one of each label: they share that label's memory in turn."""

    def __init__(self, bench: Bench, task: Task) -> None:
        self._bench, self._task = bench, task
        self._arms: dict[str, Arm] = {}

    def __getitem__(self, label: str) -> Arm:
        return self._arms[label]

    def __contains__(self, label: str) -> bool:
        return label in self._arms

    def hire(
        self,
        label: str,
        source: str | None,
        parameters: Parameters,
        *,
        nbytes: int,
        start: float,
    ) -> Arm:
        """A runner for a source, or for the task's baseline when there is none, with `nbytes` of memory to share.

        `start` is how many seconds it may take until it has imported its kernel; RunnerFailed.
        """
        bench = self._bench
        arena, fd, size = bench.arena(label, nbytes)
        payload: Mapping[str, Any] = {
            "task": self._task.model_dump(mode="json"),
            "source": source,
            "parameters": dict(parameters),
            "arena_bytes": size,
        }
        caches = bench.caches(source, parameters) if source else []
        for _ in range(_RUNNERS):
            runner = bench.runner(trusted=label == TRUSTED)
            self._arms[label] = arm = Arm(label, runner, arena)
            try:
                runner.hire(label, payload, fd, caches)
                break
            except RunnerFailed as failure:  # before it has imported anything: no kernel's doing
                self.dismiss(label)
                why = failure.finding.message
        else:
            raise HarnessError(f"runners fail before they have a kernel: {why}")
        runner.ready(start)
        return arm

    def take_over(self, nbytes: int) -> bool:
        """Go on with the trusted runner of the verdict before, if there is one with so much memory."""
        arm = self._bench.kept(self._task, nbytes)
        if arm is not None:
            self._arms[TRUSTED] = arm
        return arm is not None

    def dismiss(self, label: str) -> None:
        arm = self._arms.pop(label, None)
        if arm is not None:
            arm.runner.kill()

    def disband(self) -> None:
        """Dismiss everybody; the trusted runner waits for the next verdict."""
        trusted = self._arms.pop(TRUSTED, None)
        for label in list(self._arms):
            self.dismiss(label)
        if trusted is not None:
            trusted.deck = None
            self._bench.keep(self._task, trusted)
