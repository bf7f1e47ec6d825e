"""What a task asks of a kernel at each timing shape, by the task's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from kopt.errors import KoptError, UsageError
from kopt.evaluate import hooks
from kopt.meta import Work
from kopt.records import Shape, Task
from kopt.text import line


def work(task: Task, shapes: Sequence[Shape]) -> Work:
    """Neither the costs nor this module need torch. UsageError when the task's `cost` fails."""
    said = getattr(getattr(hooks.load(task), "baseline", None), "__doc__", None) or ""
    costs = {}
    for shape in shapes:
        try:
            costs[shape.name] = hooks.cost(task, shape)
        except KoptError:
            raise
        except Exception as error:  # the task author's code
            raise UsageError(
                f"task {task.name}: cost() in task.py fails at shape {shape.name}: {type(error).__name__}: {error}"
            ) from error
    return Work(
        peak=task.score.peak,
        shapes=tuple(shapes),
        costs=costs,
        baseline=line(said.partition("\n")[0], 80).rstrip("."),
    )
