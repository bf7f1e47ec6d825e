"""The judge's bench: device, fork server and memory, which outlive every runner."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from kopt.errors import HarnessError, MachineError, RivalFailed
from kopt.evaluate.worker.disk import remove
from kopt.judge import shelf
from kopt.judge.accuracy import Errors
from kopt.judge.arms import Arm
from kopt.judge.backends import JudgeSide, Tensor
from kopt.judge.crew import CANDIDATE, RIVAL, Rejected
from kopt.judge.layout import call_bytes, layout
from kopt.judge.measure import Job
from kopt.judge.plan import Judgement, Plan, Regime, Rival
from kopt.judge.replay import Material
from kopt.judge.runners import Runner, RunnerFailed, Zygote
from kopt.judge.shelf import CACHE
from kopt.machine.products import Product
from kopt.records import Finding, Parameters, Shape, Status, Task, digest

NOTHING = Task.model_validate({
    "name": "nothing", "title": "Nothing", "entry": "nothing", "dims": {"N": {}}, "input_families": ("none",),
    "tensors": ({"name": "out", "role": "output", "dtype": "float32", "dims": ("N",)},),
    "timing": ({"name": "one", "dims": {"N": 1}},), "check_cpu": ({"name": "one", "dims": {"N": 1}},),
    "score": {"peak": "none"}, "tolerance": {"relative_rms": 1.0},
})  # fmt: skip
"""For a runner that is only to be looked at."""
_WAKE_S = 30.0
_MODEST = 4 << 30
"""Bytes that a kernel and its CUDA context may take without being to blame when the judge runs out of memory."""


class Bench:
    """The judge's table: device, fork server, memory. It outlives its runners."""

    def __init__(self, backend: JudgeSide, zygote: Zygote, cache: Path | None = None) -> None:
        self.backend, self.zygote, self.cache = backend, zygote, cache
        # Below TMPDIR, which the driver removes.
        self._shelves = Path(tempfile.mkdtemp(prefix="kopt-binaries-"))
        self._arenas: dict[str, tuple[Tensor, int, int]] = {}
        self._kept: tuple[str, Arm] | None = None
        self._errors: dict[str, dict[str, Errors]] = {}
        self._spare: Runner | None = None
        self._made: tuple[Path, ...] | None = None

    def judge(
        self,
        task: Task,
        source: str,
        parameters: Parameters,
        shapes: Sequence[Shape],
        regime: Regime,
        plan: Plan,
        product: Product | None,
        rival: Rival | None,
        binaries: Path | None = None,
        material: Material | None = None,
        hidden: Sequence[Shape] = (),
    ) -> Judgement:
        """A bad candidate is a Judgement; RivalFailed when the rival is one, HarnessError when the judge or its
        baseline broke.

        `binaries` is a Triton cache that this very source has filled elsewhere.
        """
        started = time.monotonic()
        rival = rival or Rival()
        self._keep(source, parameters, binaries)
        if rival.source is not None:
            self._keep(rival.source, rival.parameters, rival.binaries)
        job = Job(self, task, source, parameters, list(shapes), regime, plan, product, rival, started, material, hidden)
        try:
            with job:
                job.run()
        except (Rejected, RunnerFailed) as failure:
            finding = failure.finding
            if failure.label != CANDIDATE:
                # No verdict over the candidate can come of that.
                self.drop()
                short = "out of memory" in finding.message.lower()  # two kernels may be more than there is room for
                error = RivalFailed if failure.label == RIVAL and not short else HarnessError
                raise error(f"task {task.name}: the {failure.label} failed: {finding}") from None
            status = finding.status or Status.CRASHED
            return Judgement(
                status=status, findings=(*job.findings, finding), facts=job.facts, seconds=time.monotonic() - started
            )
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            # Memory was planned for; what was not planned is what the candidate took, if it took any.
            if job.taken < _MODEST:
                largest = max(shapes, key=lambda shape: sum(call_bytes(task, shape.dims)))
                raise MachineError(
                    f"task {task.name}: the GPU's memory is too small to judge its shapes, the largest of which is "
                    f"{largest}; --shapes FILE names smaller ones"
                ) from None
            message = "the kernel leaves the judge too little of the device's memory"
            finding = Finding(rule="judge.memory", message=message, status=Status.CRASHED)
            return Judgement(
                status=Status.CRASHED, findings=(finding,), facts=job.facts, seconds=time.monotonic() - started
            )
        return Judgement(
            status=Status.PASSED,
            measurements=job.measurements(),
            findings=tuple(job.findings),
            quads={name: tuple(s.logs) for name, s in job.series.items()},
            facts=job.facts,
            seconds=time.monotonic() - started,
        )

    def _keep(self, source: str, parameters: Parameters, cache: Path | None) -> None:
        """Shelve a cache; the shelves used last stay."""
        place = self._shelf(source, parameters)
        if cache is not None:
            shelf.keep(cache, place)
        if place.exists():
            os.utime(place)
            shelves = sorted(self._shelves.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in shelves[: -shelf.KEPT]:
                remove(old)

    def _shelf(self, source: str, parameters: Parameters) -> Path:
        return self._shelves / digest(source, parameters)

    def caches(self, source: str, parameters: Parameters) -> list[Path]:
        """What every process of this source starts with: what all need, and what kopt had compiled for this judgement
        or an earlier one.

        Never what one of them has left there: the next could tell that it is not the first.
        """
        shelved = self._shelf(source, parameters)
        return [cache for cache in (self.cache, self._common(), shelved) if cache is not None]

    def _common(self) -> Path | None:
        """A cache with what every process that launches with Triton compiles first; None where that fails."""
        if self._made is None:
            folder = Path(tempfile.mkdtemp(prefix="kopt-common-"))
            done = self.backend.name == "cuda" and self.zygote.common(folder)
            self._made = (folder / CACHE,) if done else ()
        return self._made[0] if self._made else None

    def memory(self) -> int:
        """Bytes of the device that are free or ours already."""
        return self.backend.free_bytes() + sum(size for _, _, size in self._arenas.values())

    def keep(self, task: Task, arm: Arm) -> None:
        """Hold a trusted runner for the next verdict of the same task."""
        self._kept = (task.sha, arm)

    def kept(self, task: Task, nbytes: int) -> Arm | None:
        """The trusted runner of this task, if it is there and has room enough; otherwise it is gone."""
        held = self._kept
        if held is not None and (held[0] != task.sha or held[1].arena.numel() < nbytes or not held[1].runner.quiet):
            self.drop()
            return None
        self._kept = None
        return held[1] if held else None

    def errors(self, task: Task) -> MutableMapping[str, Errors]:
        """The baseline's own relative RMS errors, by shape: measured once, since its code does not change."""
        return self._errors.setdefault(task.sha, {})

    def drop(self) -> None:
        held, self._kept = self._kept, None
        if held is not None:
            held[1].runner.kill()

    def prepare(self) -> None:
        """Have the next runner wake up. It imports nothing before it is hired, when the one before it is gone."""
        if self._spare is None:
            self._spare = Runner(self.zygote, self.backend.name)

    def runner(self, *, trusted: bool) -> Runner:
        """One that is awake and has no kernel yet: the prepared one, or a new one; HarnessError."""
        spare, self._spare = (None, self._spare) if trusted else (self._spare, None)
        if spare is not None:
            try:
                spare.awake(_WAKE_S)
                return spare
            except RunnerFailed:
                spare.kill()  # whoever was alive beside it may have had a hand in that
        runner = Runner(self.zygote, self.backend.name, trusted=trusted)
        try:
            runner.awake(_WAKE_S)
        except RunnerFailed as failure:
            runner.kill()
            raise HarnessError(f"a runner does not wake up: {failure.finding.message}") from None
        return runner

    def probe(self) -> dict[str, Any]:
        """Start a runner as for a stranger's kernel, have it map memory, and end it: what stands, and by which way."""
        arena, fd, size = self.arena(CANDIDATE, 1 << 20)
        payload = {
            "task": NOTHING.model_dump(mode="json"), "parameters": {}, "source": "def nothing(out):\n    pass\n",
            "arena_bytes": size,
        }  # fmt: skip
        runner = self.runner(trusted=False)
        try:
            runner.hire(CANDIDATE, payload, fd)
            runner.ready(30.0)
            arm = Arm(CANDIDATE, runner, arena)
            shape = NOTHING.timing[0]
            runner.setup(layout(NOTHING, shape.dims, 1, 1), 30.0)
            return {"walls": arm.runner.walls, "sharing": self.backend.sharing, "witness_us": self.self_test(),
                    "telemetry": dict(self.backend.telemetry())}  # fmt: skip
        except RunnerFailed as failure:
            raise HarnessError(f"a runner does not work here: {failure.finding}") from None
        finally:
            runner.kill()

    def self_test(self) -> float:
        """Prove after a runner's death that device and judge still work; microseconds of the witness."""
        self.backend.synchronize()
        return self.backend.witness()

    def arena(self, label: str, nbytes: int) -> tuple[Tensor, int, int]:
        """Memory for one arm, kept from runner to runner and empty. Call it when no runner of that arm is alive."""
        held = self._arenas.get(label)
        if held is None or held[2] < nbytes:
            if held is not None:
                self.backend.release(held[0])
                os.close(held[1])
            self._arenas[label] = held = (*self.backend.share(nbytes), nbytes)
        held[0].zero_()  # of notes that one process leaves for the next, too
        self.backend.synchronize()
        return held
