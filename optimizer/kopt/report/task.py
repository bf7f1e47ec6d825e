"""What a report wants to know of the task behind a run: its shapes, and how much work each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kopt.errors import KoptError
from kopt.meta import Meta, Work
from kopt.records import Cost, Shape
from kopt.text import line


@dataclass(frozen=True)
class About:
    """`costs` and `shapes` by shape name; empty, with `missing` saying why, when neither run nor task can be asked."""

    peak: str = ""
    """Kind of arithmetic that utilization is of."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    baseline: str = ""
    """What measurements are compared with, in the words of the task's `baseline`."""
    missing: str = ""


def about(meta: Meta, workspace: Path) -> About:
    """As the run has recorded it; of an older run as its task says, if that is in sight and has not changed since."""
    if meta.work is not None:
        return _about(meta.work)
    from kopt import content
    from kopt.work import work

    try:
        task = content.load_task(meta.task, workspace)
    except KoptError:
        return About(missing=f"the task {meta.task} is not at hand")
    if task.sha != meta.task_sha:
        return About(missing=f"the task {meta.task} has changed since this run")
    try:
        return _about(work(task, meta.shapes or task.timing))
    except KoptError as error:
        return About(missing=line(str(error), 120))


def _about(work: Work) -> About:
    return About(work.peak, work.costs, {shape.name: shape for shape in work.shapes}, work.baseline)
