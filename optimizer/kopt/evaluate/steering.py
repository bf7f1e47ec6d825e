"""Integer inputs of timing shapes. Ids, offsets and tables may decide what a kernel does: stages give it real ones."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kopt.disk import writing
from kopt.errors import UsageError
from kopt.records import Shape, Task

if TYPE_CHECKING:
    from kopt.evaluate.workers import Workers

STEERING = frozenset(("int16", "int32", "int64", "bool"))
"""Dtypes whose values can steer a kernel. Eight-bit integers are operands."""
_DEADLINE = 240.0
_MEMORY = 16 << 30
_SUFFIX = ".values"


class Steering:
    """Makes them once per task, shape and seed, in a process that never sees a candidate. Thread-safe."""

    def __init__(self, workers: Workers, store: Path) -> None:
        """`store` is a folder for the jobs' own folders."""
        self._workers = workers
        self._store = store
        self._values: dict[tuple[str, str, int], dict[str, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, folder: Path, task: Task, shape: Shape, seed: int) -> dict[str, str]:
        """Write the bytes of the shape's integer inputs into a folder; the files' names by tensor."""
        files = {}
        for name, data in self._of(task, shape, seed).items():
            files[name] = f"{shape.name}.{name}{_SUFFIX}"
            (folder / files[name]).write_bytes(data)
        return files

    def _of(self, task: Task, shape: Shape, seed: int) -> dict[str, bytes]:
        if not any(t.dtype in STEERING for t in task.inputs):
            return {}
        key = (task.sha, repr(shape), seed)
        with self._lock:
            if key not in self._values:
                self._values[key] = self._make(task, shape, seed)
            return self._values[key]

    def _make(self, task: Task, shape: Shape, seed: int) -> dict[str, bytes]:
        with writing(self._store):
            folder = Path(tempfile.mkdtemp(prefix="values-", dir=self._store))
        try:
            reply = self._workers.run(
                "compile",
                "kopt.evaluate.worker.count:values",
                {
                    "task": task.model_dump(mode="json"),
                    "shape": shape.model_dump(mode="json"),
                    "family": task.timed_family(shape),
                    "seed": seed,
                },
                folder=folder,
                deadline=_DEADLINE,
                memory=_MEMORY,
                trusted=True,
            )
            if not reply.ok:
                raise UsageError(f"task {task.name}, shape {shape}: its integer inputs cannot be made: {reply.error}")
            return {name: (folder / f"{name}{_SUFFIX}").read_bytes() for name in reply.value["names"]}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
