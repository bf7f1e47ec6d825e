"""What a report needs to know of a run's task: the work of each shape, if the task is still the one that was run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kopt.errors import KoptError
from kopt.meta import Meta
from kopt.records import Cost, Shape, Task
from kopt.text import line


@dataclass(frozen=True)
class About:
    """`costs` and `shapes` by shape name; empty, with `missing` saying why, when the task cannot be asked."""

    task: Task | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    baseline: str = ""
    """What measurements are compared with, in the words of the task's `baseline`."""
    missing: str = ""


def about(meta: Meta, workspace: Path) -> About:
    """The task of a run, if it is in sight and has not changed since."""
    from kopt import content

    # The costs are the task's own arithmetic; neither the task's hooks nor this module need torch for them.
    from kopt.evaluate import hooks

    try:
        task = content.load_task(meta.task, workspace)
        if task.sha != meta.task_sha:
            return About(missing=f"the task {meta.task} has changed since this run")
        timing = meta.shapes or task.timing
        costs = {shape.name: hooks.cost(task, shape) for shape in timing}
        said = getattr(getattr(hooks.load(task), "baseline", None), "__doc__", None) or ""
    except KoptError:
        return About(missing=f"the task {meta.task} is not at hand")
    except Exception as error:  # a hook is the task author's code; a report is not the place to fail on it
        return About(missing=f"the task's cost() failed: {type(error).__name__}")
    return About(task, costs, {shape.name: shape for shape in timing}, line(said.partition("\n")[0], 80).rstrip("."))
