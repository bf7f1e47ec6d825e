"""What a stage is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kopt.machine.products import Product
from kopt.records import Outcome, Parameters, StageResult, Submission, Task


@dataclass(frozen=True)
class Case:
    """One thing to evaluate: a source at one parameter point, for one task on one target."""

    task: Task
    submission: Submission
    source: str
    target: Product
    parameters: Parameters = field(default_factory=dict)
    """Pinned parameters and those of the trial, merged; what the entry is called with."""
    seed: int = 0


Earlier = Mapping[str, StageResult]
"""Results of the stages before this one, by stage name."""


class Stage(Protocol):
    """One falsifier. It never raises for a bad candidate: that is a failed `StageResult`."""

    name: str

    def run(self, case: Case, earlier: Earlier) -> StageResult: ...


def passed(earlier: Earlier, stage: str) -> bool:
    return stage in earlier and earlier[stage].outcome is Outcome.PASSED
