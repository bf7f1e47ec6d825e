"""Counts a candidate's timing shapes: in one process, and in more beside it while processors have nothing to do."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.disk import writing
from kopt.evaluate.stage import Case
from kopt.evaluate.steering import Steering
from kopt.evaluate.tensors import layout
from kopt.evaluate.worker.candidate import FILE
from kopt.records import Shape

if TYPE_CHECKING:
    from kopt.evaluate.workers import Reply, Workers

LATE = "the time for counting went to the shapes before"
LAUNCH_SECONDS = 4.0
"""Of effort, which is counted and not timed: what one launch is sampled for. The same on a busy machine, until
a deadline ends all."""
_PATIENCE = 0.5
"""Seconds that the processes at work are left to it before another joins them. Most candidates need no more."""

Known = Callable[[str], dict[str, Any] | None]


class Counting:
    """One candidate's. Each process takes the next shape when it is done with one, so none waits for the slowest."""

    def __init__(
        self, workers: Workers, store: Path, steering: Steering, case: Case, kernels: Mapping[str, Any], known: Known
    ) -> None:
        """`kernels` are occupancy, warps and stages of what was compiled; `known` finds counts by their key."""
        self._workers, self._store, self._steering = workers, store, steering
        self._case, self._kernels, self._known = case, dict(kernels), known
        self._rest = list(case.task.timing)
        self._lock = threading.Lock()
        self._until = 0.0

    def run(self, deadline: float, wall: float) -> list[tuple[list[str], Reply]]:
        """Names of shapes with the reply of the process that they went to; those left out were not begun in time.

        `deadline` is in seconds for each process, `wall` in seconds after which no further shape is begun.
        What no process comes to take, because the candidate ends each, is given to the reply of the first of these.
        """
        self._until = time.monotonic() + wall
        pool = ThreadPoolExecutor(max(1, len(self._rest)), thread_name_prefix="count")
        jobs = [pool.submit(self._job, deadline)]
        try:
            while True:
                going = wait(jobs, timeout=_PATIENCE).not_done
                if self._more(jobs) and (not going or self._workers.idle):
                    jobs.append(pool.submit(self._job, deadline))
                elif not going:
                    break
            found = [job.result() for job in jobs]
        finally:
            self._until = 0.0  # after an interrupt: whoever is at work gets no further shape
            pool.shutdown(wait=False, cancel_futures=True)
        if self._rest and (barren := [reply for names, reply in found if not names and not reply.ok]):
            found.append(([shape.name for shape in self._rest], barren[0]))
        return found

    def _more(self, jobs: Sequence[Future[tuple[list[str], Reply]]]) -> bool:
        """Whether another process would find something to do."""
        return bool(self._rest) and not self._late() and all(job.result()[0] for job in jobs if job.done())

    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _job(self, deadline: float) -> tuple[list[str], Reply]:
        with writing(self._store):
            folder = Path(tempfile.mkdtemp(prefix="count-", dir=self._store))
        taken: list[str] = []
        try:
            with writing(folder):
                (folder / FILE).write_text(self._case.source, encoding="utf-8")
                # Written before the candidate runs: it could lay links where a later file would go.
                shapes = {shape.name: self._shape(shape, folder) for shape in tuple(self._rest)}

            def answer(question: dict[str, Any]) -> dict[str, Any]:
                if "next" in question:
                    return {"shape": self._next(question["next"], shapes, taken)}
                key = question.get("known")
                return {"counts": self._known(key) if isinstance(key, str) else None}

            payload = {
                "file": FILE,
                "entry": self._case.task.entry,
                "parameters": dict(self._case.parameters),
                "target": asdict(self._case.target),
                "kernels": self._kernels,
                "seconds": LAUNCH_SECONDS,
            }
            reply = self._workers.run(
                "interpret", "kopt.evaluate.worker.count:run", payload, folder=folder, deadline=deadline, on_ask=answer
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return taken, reply

    def _next(self, done: Any, shapes: Mapping[str, dict[str, Any]], taken: list[str]) -> dict[str, Any] | None:
        """The shape after `done` others. A job that is run again, its server having died, gets its own once more."""
        with self._lock:
            if done == len(taken) and self._rest and not self._late():
                taken.append(self._rest.pop(0).name)
        return shapes[taken[done]] if isinstance(done, int) and 0 <= done < len(taken) else None

    def _shape(self, shape: Shape, folder: Path) -> dict[str, Any]:
        """One shape as the job wants it, with files for the tensors whose values can steer a kernel."""
        return {
            "name": shape.name,
            "tensors": layout(self._case.task.tensors, shape.dims),
            "values": self._steering.put(folder, self._case.task, shape, self._case.seed),
        }
