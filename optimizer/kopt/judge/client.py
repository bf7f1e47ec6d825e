"""The driver's end: a judge that can be asked, that is restarted when it breaks, and that ends with the driver.

with Judge(task, "cuda") as judge:
    judgement = judge.measure(source, {}, task.timing, "burst", SCREENING)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kopt.errors import DeviceTaken, HarnessError, JudgeBroke, KoptError, MachineError, RivalFailed, UsageError
from kopt.evaluate.server import inherited
from kopt.evaluate.worker import channel
from kopt.evaluate.worker.disk import remove
from kopt.evaluate.worker.processes import signal_name
from kopt.judge.backends import BackendName
from kopt.judge.plan import SCREENING, Judgement, Plan, Regime, Rival
from kopt.judge.replay import Material
from kopt.machine.detect import VISIBLE, Gpu, detect
from kopt.machine.products import Product
from kopt.records import Parameters, Shape, Task

_START = 180.0
"""Seconds to import torch and triton from a cold disk, and to open the device."""
_SLACK = 90.0
"""Seconds beyond a plan's own limit after which a judge counts as hung."""
_ERRORS: Mapping[str, type[KoptError]] = {
    e.__name__: e for e in (DeviceTaken, HarnessError, MachineError, RivalFailed, UsageError)
}


class Judge:
    """One judge process on one device. Not thread-safe: a device measures one thing at a time."""

    def __init__(
        self,
        task: Task,
        backend: BackendName = "cuda",
        *,
        device: str = "",
        target: Product | None = None,
        cache: Path | None = None,
    ) -> None:
        """Nothing starts before the first question. `device` is an index or UUID of a GPU, "" for the only one.

        `target` defaults to the product that NVML's name stands for; an unknown GPU has no peak, so no utilization.
        `cache` is a Triton cache that every runner starts with a copy of.
        """
        self.task, self.backend, self.target = task, backend, target
        self._device, self._cache = device, cache
        self.gpu: Gpu | None = None
        if backend == "cuda":
            self.gpu = _gpu(device)
            self._device, self.target = self.gpu.uuid, target or self.gpu.product
        self.about: dict[str, Any] = {}
        """What the judge said of itself when it started: toolchain, pid."""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def measure(
        self,
        source: str,
        parameters: Parameters | None = None,
        shapes: Sequence[Shape] | None = None,
        regime: Regime = "burst",
        plan: Plan = SCREENING,
        *,
        rival: Rival | None = None,
        binaries: Path | None = None,
        material: Material | None = None,
        hidden: Sequence[Shape] = (),
    ) -> Judgement:
        """Check and time one source; against the task's baseline, or against `rival`.

        `binaries` is a Triton cache that this very source has filled (see judge/binaries.py), for this
        verdict and later ones. `material` is what its trace recorded: with it, its launches are timed without its host
        code too. `hidden` are the ragged shapes of the checks, drawn for this verdict and compiled already; without
        them the judge draws its own.

        Whatever the candidate does is a Judgement; RivalFailed when it is the rival that does it. MachineError when the
        device is not fit, JudgeBroke when a judge broke twice in a row.
        """
        request = {
            "op": "measure",
            "task": self.task.model_dump(mode="json"),
            "source": source,
            "parameters": dict(parameters or {}),
            "shapes": [s.model_dump(mode="json") for s in (self.task.timing if shapes is None else shapes)],
            "regime": regime,
            "plan": plan.model_dump(mode="json"),
            "target": self.target.key if self.target else None,
            "rival": rival.model_dump(mode="json") if rival else None,
            "binaries": str(binaries) if binaries else None,
            "hidden": [s.model_dump(mode="json") for s in hidden],
            "material": material.model_dump(mode="json") if material else None,
        }
        for attempt in (1, 2):
            try:
                return Judgement.model_validate(self._ask(request, plan.seconds + _SLACK)["judgement"])
            except _Died as death:
                if attempt == 2:
                    raise JudgeBroke(f"the judge broke twice over the same kernel: {death}") from None
        raise AssertionError("unreachable")

    def start(self) -> None:
        """Start now what the first question would start; the same errors."""
        if self._process is None:
            self._start()

    def probe(self) -> dict[str, Any]:
        """What stands around a runner here, and how memory reaches it; HarnessError when no runner works."""
        try:
            return self._ask({"op": "probe"}, _SLACK)
        except _Died as death:
            raise HarnessError(f"the judge broke: {death}") from None

    def close(self) -> None:
        """End the judge and everything it started."""
        if self._process is not None:
            self._sock.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10.0)
            self._kill()
        if self._folder is not None:
            remove(Path(self._folder.name))
            self._folder.cleanup()
            self._folder = None

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        self.start()
        try:
            self._sock.settimeout(seconds)
            self._sock.sendall(channel.encode(request))
            reply = channel.receive(self._sock, self._reader)
        except (OSError, EOFError, channel.FrameError) as error:
            hung = isinstance(error, TimeoutError)
            how = f"no answer within {seconds:g} s" if hung else self._obituary()
            self._kill()
            raise _Died(how) from None
        return _or_raise(reply)

    def _start(self) -> None:
        self._sock, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._reader = channel.Reader()
        environment = inherited("HOME")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="kopt-judge-", ignore_cleanup_errors=True)
            Path(self._folder.name).chmod(0o711)  # runners of another uid must reach their own folders in it
        environment["TMPDIR"] = self._folder.name
        environment["CUDA_VISIBLE_DEVICES"] = self._device if self.backend == "cuda" else ""
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kopt.judge.server", str(there.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                # Its own session: a Ctrl-C at the terminal is the driver's to handle.
                start_new_session=True,
                cwd="/",
            )
        opening = {"backend": self.backend, "device": self._device, "cache": str(self._cache) if self._cache else None}
        try:
            self.about = self._ask(opening, _START)
        except _Died as death:
            raise HarnessError(f"the judge does not start: {death}") from None
        except KoptError:
            self._kill()
            raise

    def _obituary(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        code = self._process.returncode
        if code is None:
            return "it closed its socket"
        return f"killed by {signal_name(-code)}" if code < 0 else f"exit status {code}"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._sock.close()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Died(Exception):
    """The judge's process is gone or hung."""


def _or_raise(reply: dict[str, Any]) -> dict[str, Any]:
    if "failure" in reply:
        raise _ERRORS.get(str(reply["failure"]), HarnessError)(str(reply["message"]))
    return reply


def _gpu(wanted: str) -> Gpu:
    """The GPU with this index or UUID; without either, the only one."""
    found = detect()
    gpus = found.visible()
    if not gpus:
        raise MachineError(f"no GPU to measure on: {found.problem or f'{VISIBLE} hides all'}")
    if wanted:
        return found.visible_as(wanted)
    if len(gpus) > 1:
        numbers = ", ".join(str(gpu.index) for gpu in gpus)
        raise UsageError(f"there are {len(gpus)} GPUs here: choose one of {numbers} with --gpu")
    return gpus[0]
