"""Binaries for the judge's runners, compiled on the CPU while the other stages are at work."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kopt.errors import HarnessError
from kopt.evaluate.stage import Case
from kopt.evaluate.tensors import layout
from kopt.judge.shelf import CACHE
from kopt.records import digest

if TYPE_CHECKING:
    from kopt.evaluate.workers import Workers

DEADLINE = 120.0
"""Seconds for one source at one parameter point. What is compiled by then is used."""


class Binaries:
    """Thread-safe. As many at a time as there are cores."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        # Processes of another uid must reach their own folders in it.
        self._store = Path(tempfile.mkdtemp(prefix="kopt-binaries-"))
        self._store.chmod(0o711)
        self._pool = ThreadPoolExecutor(workers.cores, thread_name_prefix="binaries")
        self._lock = threading.Lock()
        self._begun: dict[str, Future[Path]] = {}

    def begin(self, case: Case) -> None:
        """Compile what the case launches at the shapes that a judge will ask for."""
        key = _key(case)
        with self._lock:
            if key not in self._begun:
                self._begun[key] = self._pool.submit(self._make, case)

    @contextmanager
    def taken(self, case: Case) -> Iterator[Path | None]:
        """The Triton cache that came of it, waited for; gone afterwards: the judge keeps what a source compiled."""
        with self._lock:
            future = self._begun.pop(_key(case), None)
        folder = future.result() if future is not None else None
        try:
            yield folder / CACHE if folder is not None else None
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._store, ignore_errors=True)

    def _make(self, case: Case) -> Path:
        folder, task = Path(tempfile.mkdtemp(dir=self._store)), case.task
        payload = {
            "source": case.source,
            "entry": task.entry,
            "target": case.target.key,
            "parameters": dict(case.parameters),
            "shapes": [layout(task.tensors, shape.dims) for shape in (*task.timing, *task.check_gpu)],
        }
        job = "kopt.judge.binaries:make"
        with suppress(HarnessError):  # without binaries the runner compiles for itself
            # `trusted`: the job raises its walls itself, since the ordinary ones allow no compiler.
            self._workers.run("compile", job, payload, folder=folder, deadline=DEADLINE, trusted=True)
        return folder


def _key(case: Case) -> str:
    return digest(case.source, case.parameters) + case.target.key
