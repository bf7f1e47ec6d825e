"""Problems of a task with their inputs and expected values: made by trusted children, kept here in memory.

Not on the disk: a candidate that looks for the answers there finds none.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.errors import HarnessError, UsageError
from kopt.records import Finding, Shape, Task

if TYPE_CHECKING:
    from kopt.evaluate.workers import Workers

_DEADLINE = 120.0


@dataclass(frozen=True)
class Problem:
    """One shape with one family of inputs."""

    shape: Shape
    family: str


@dataclass(frozen=True)
class Prepared:
    """Problems and, at the same index, their files in the form of tensors.py."""

    problems: tuple[Problem, ...]
    inputs: tuple[bytes, ...]
    answers: tuple[bytes, ...]
    """Expected values, then the bounds on their errors."""


@dataclass(frozen=True)
class Graded:
    """How the outputs of one problem compare with what is expected."""

    findings: tuple[Finding, ...]
    relative_rms: float | None
    of_bound: float | None
    """Largest error as a fraction of its bound. None, like the error, where the task has a check of its own."""


def problems(task: Task) -> tuple[Problem, ...]:
    """All check_cpu shapes with their families of inputs, those of one shape together."""
    return tuple(Problem(shape, family) for shape in task.check_cpu for family in task.families_for(shape))


class Answers:
    """The driver's side of oracle.py. Thread-safe; prepares once per task, seed and choice of problems."""

    def __init__(self, workers: Workers, store: Path) -> None:
        """`store` is a folder for the jobs' own folders."""
        self._workers = workers
        self._store = store
        self._prepared: dict[object, Prepared] = {}
        self._lock = threading.Lock()

    def prepare(self, task: Task, seed: int, chosen: Sequence[Problem]) -> Prepared:
        """Inputs and expected values; UsageError when a hook of the task does not keep its contract."""
        # By name, which is unique within a task: a Shape holds a dictionary and cannot be hashed.
        key = (task.sha, seed, tuple((p.shape.name, p.family) for p in chosen))
        with self._lock:
            if key not in self._prepared:
                _, files = self._job("prepare", task, chosen, {}, seed=seed)
                count = range(len(chosen))
                self._prepared[key] = Prepared(
                    tuple(chosen), tuple(files[f"{i}.in"] for i in count), tuple(files[f"{i}.want"] for i in count)
                )
            return self._prepared[key]

    def grade(self, task: Task, prepared: Prepared, outputs: Mapping[int, bytes]) -> dict[int, Graded]:
        """Compare outputs, by index of their problem, with what is expected."""
        if not outputs:
            return {}
        files: dict[str, bytes] = {}
        for number, (index, data) in enumerate(outputs.items()):
            files[f"{number}.in"] = prepared.inputs[index]
            files[f"{number}.want"] = prepared.answers[index]
            files[f"{number}.out"] = data
        value, _ = self._job("compare_all", task, [prepared.problems[i] for i in outputs], files)
        return {
            index: Graded(
                tuple(Finding.model_validate(f) for f in result["findings"]), result["relative_rms"], result["of_bound"]
            )
            for index, result in zip(outputs, value["calls"], strict=True)
        }

    def _job(
        self, job: str, task: Task, chosen: Sequence[Problem], files: Mapping[str, bytes], **more: Any
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Run a job of oracle.py on files; its value and the files that it wrote."""
        folder = Path(tempfile.mkdtemp(prefix="oracle-", dir=self._store))
        try:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            calls = [[p.shape.model_dump(mode="json"), p.family] for p in chosen]
            reply = self._workers.run(
                # Nothing is interpreted here; but this server runs anyway, and the other one compiles.
                "interpret",
                f"kopt.evaluate.oracle:{job}",
                {"task": task.model_dump(mode="json"), "calls": calls, **more},
                folder=folder,
                deadline=_DEADLINE,
                trusted=True,
            )
            if reply.error.startswith("UsageError: "):
                raise UsageError(reply.error.removeprefix("UsageError: "))
            if not reply.ok:
                where = f" in {folder}" if reply.error.startswith("OSError") else ""
                raise HarnessError(f"task {task.name}: {job} failed{where}: {reply.error}")
            return reply.value, {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".in", ".want")}
        except OSError as error:
            raise HarnessError(f"{folder}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
