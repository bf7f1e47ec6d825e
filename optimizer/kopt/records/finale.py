"""The end of a measured run: its best submissions measured once more, and the one that holds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from kopt.records.base import Record
from kopt.records.submission import Parameters
from kopt.records.verdict import Finding, Measurement, Status, Toolchain


class Contest(Record):
    """One submission measured with fresh processes and seeds, in ABBA quads against one opponent."""

    submission: int
    sha: str
    parameters: Parameters = {}
    against: int | None = None
    """The submission it was measured against; None for the task's baseline."""
    status: Status
    score: float | None = None
    measurements: tuple[Measurement, ...] = ()
    quads: Mapping[str, tuple[float, ...]] = {}
    """log(its time / the opponent's) of every valid quad, by shape; empty without an opponent."""
    batches: int = Field(default=0, ge=0)
    """Behind every shape, where the task has no baseline and there are no quads."""
    processes: int = Field(ge=1)
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0

    @property
    def fewest(self) -> int:
        """Quads behind every shape."""
        return min(map(len, self.quads.values()), default=0)

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED and self.score is not None


class Finale(Record):
    """What is left of the best numbers of a run when they are taken again. Nothing measured before counts for it."""

    winner: int | None
    """None when no submission held up, or there was no time to try."""
    score: float | None
    """Of `measurements`: the run's headline."""
    measurements: tuple[Measurement, ...] = ()
    quads: int = Field(ge=0)
    """Valid quads behind every shape of `measurements`."""
    batches: int = Field(default=0, ge=0)
    """The same where the task has no baseline, and no two submissions were compared."""
    sustained: tuple[Measurement, ...] = ()
    """Of the winner under lasting load, from one process, where time was left for it; no part of the score."""
    sustained_seconds: float = 0.0
    """What that took; contests have their own."""
    incumbent: int | None
    """The best one by what was measured during the run."""
    promoted: bool = False
    """Whether the winner took the incumbent's place in a comparison of the two."""
    submissions: int = Field(ge=0)
    """Submissions of the run at that time: how many chances luck had."""
    target: str
    toolchain: Toolchain
    evaluator: int
    reason: str

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.winner is None) != (self.score is None) or (self.winner is not None and not self.measurements):
            raise ValueError("a finale's winner needs a score and its measurements, and neither stands alone")
        return self
