"""Binaries for the judge's runners, compiled on the CPU while the other stages are at work."""

from __future__ import annotations

import random
import secrets
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kopt.disk import writing
from kopt.errors import KoptError
from kopt.evaluate.stage import Case
from kopt.evaluate.tensors import layout
from kopt.judge import shelf
from kopt.judge.sizing import hidden_shapes
from kopt.records import Shape, digest

if TYPE_CHECKING:
    from kopt.evaluate.steering import Steering
    from kopt.evaluate.workers import Workers

DEADLINE = 120.0
"""Seconds for one source at one parameter point. What is compiled by then is used."""

_Key = tuple[str, bool]
"""A source at some parameters for a target; with the check shapes, or without them."""


class Made(NamedTuple):
    """Binaries of a source for one verdict."""

    cache: Path | None
    """Triton's; None where a judge has it already."""
    hidden: tuple[Shape, ...]
    """Ragged check shapes that it has binaries for."""


class Binaries:
    """Thread-safe. As many at a time as there are cores."""

    def __init__(self, workers: Workers, steering: Steering) -> None:
        self._workers, self._steering = workers, steering
        # Processes of another uid must reach their own folders in it.
        with writing():
            self._store = Path(tempfile.mkdtemp(prefix="kopt-binaries-"))
        self._store.chmod(0o711)
        self._pool = ThreadPoolExecutor(workers.cores, thread_name_prefix="binaries")
        self._lock = threading.Lock()
        self._begun: dict[_Key, tuple[list[Future[Path]], list[Shape]]] = {}
        self._given: deque[_Key] = deque(maxlen=shelf.KEPT // 2)

    def begin(self, case: Case, *, checks: bool) -> None:
        """Compile what the case launches at the shapes that a judge will time, and at those that it checks, in several
        processes; unless it was given out lately: a judge keeps what it gets for a while.

        The ragged shapes among the checks are drawn here, for this verdict: nothing on a GPU waits for a compiler.
        """
        key = _key(case, checks)
        with self._lock:
            given = key in self._given or _key(case, checks=True) in self._given
            if key not in self._begun and not given:
                hidden = hidden_shapes(case.task, random.Random(secrets.randbits(64))) if checks else []
                shapes = (*case.task.timing, *(case.task.check_gpu if checks else ()), *hidden)
                jobs = max(1, min(len(shapes), self._workers.cores // 2))
                futures = [self._pool.submit(self._make, case, shapes[n::jobs]) for n in range(jobs)]
                self._begun[key] = futures, hidden

    def drop(self, case: Case, *, checks: bool) -> None:
        """What was begun will not be asked for."""
        with self._lock:
            futures, _ = self._begun.pop(_key(case, checks), ([], []))
        for future in futures:
            if not future.cancel():
                future.add_done_callback(_remove)

    @contextmanager
    def taken(self, case: Case, *, checks: bool) -> Iterator[Made]:
        """What came of it, waited for, and nothing a second time; gone afterwards: judges keep a copy."""
        key = _key(case, checks)
        with self._lock:
            futures, hidden = self._begun.pop(key, ([], []))
            if futures:
                self._given.append(key)
        folders = [future.result() for future in futures]
        try:
            for other in folders[1:]:
                shelf.copy(other / shelf.CACHE, folders[0] / shelf.CACHE)
            yield Made(folders[0] / shelf.CACHE if folders else None, tuple(hidden))
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._store, ignore_errors=True)

    def _make(self, case: Case, shapes: Sequence[Shape]) -> Path:
        folder, task = Path(tempfile.mkdtemp(dir=self._store)), case.task
        with suppress(KoptError):  # without binaries the runner compiles for itself
            payload = {
                "source": case.source,
                "entry": task.entry,
                "target": case.target.key,
                "parameters": dict(case.parameters),
                "shapes": [self._shape(case, shape, folder) for shape in shapes],
            }
            job = "kopt.judge.binaries:make"
            # `trusted`: the job raises its walls itself, since the ordinary ones allow no compiler.
            self._workers.run("compile", job, payload, folder=folder, deadline=DEADLINE, trusted=True)
        return folder

    def _shape(self, case: Case, shape: Shape, folder: Path) -> list[dict[str, Any]]:
        files = self._steering.put(folder, case.task, shape, case.seed)
        return [{**spec, "file": files.get(spec["name"])} for spec in layout(case.task.tensors, shape.dims)]


def _remove(made: Future[Path]) -> None:
    if made.exception() is None:
        shutil.rmtree(made.result(), ignore_errors=True)


def _key(case: Case, checks: bool) -> _Key:
    return digest(case.source, case.parameters) + case.target.key, checks
