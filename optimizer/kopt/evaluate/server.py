"""The driver's end of one fork server: start it, hand it orders, and see to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import kopt
from kopt.errors import HarnessError, MachineError

PASSED = (
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG", "LC_ALL", "LC_CTYPE",
    "TZ", "TMPDIR", "TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH", "TRITON_CUOBJDUMP_PATH",
    "TRITON_NVDISASM_PATH", "TRITON_LIBDEVICE_PATH",
)  # fmt: skip
"""Names of the variables that workers inherit. All else, keys and tokens included, stays with the driver."""

_SET = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",  # what a job printed before it died is part of the evidence
    "CUDA_VISIBLE_DEVICES": "",
    # No threads before the fork: a fork in the middle of one's work inherits its locks.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "TRITON_DEFAULT_FP_FUSION": "1",
}

_START = 180.0
"""Seconds an import of torch and triton may take from a cold disk."""


class ServerDied(Exception):
    """The fork server is gone; the text says how."""


def heard(supervisor: socket.socket) -> bytes:
    """The next message from a job's supervisor; b"" when there will be none.

    A "kill" that crosses with the end of its job is never read. Linux then reports a reset once, ahead of the end that
    was told and still lies there to be read: it is no sign that the fork server died.
    """
    for _ in range(2):
        with suppress(ConnectionError):
            return supervisor.recv(1 << 12)
    return b""


class Server:
    """One fork server. `order` and `ready` are thread-safe."""

    def __init__(self, kind: str, environment: Mapping[str, str]) -> None:
        self.kind = kind
        self._lock = threading.Lock()
        self._versions: dict[str, str] | None = None
        self._jobs: set[int] = set()
        try:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the server)
            self._control, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "kopt.evaluate.worker.zygote", str(there.fileno())],
                    env=_environment(kind, environment),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(there.fileno(),),
                    # Its own session: a Ctrl-C at the driver's terminal is the driver's to handle.
                    start_new_session=True,
                    cwd="/",
                )
        except OSError as error:
            raise HarnessError(f"cannot start the {kind} worker server: {error.strerror}") from None

    def ready(self) -> dict[str, str]:
        """Wait until it serves; the versions of its toolchain."""
        with self._lock:
            if self._versions is None:
                self._control.settimeout(_START)
                try:
                    data = self._control.recv(1 << 16)
                except TimeoutError:
                    raise HarnessError(f"the {self.kind} worker server did not start within {_START:g} s") from None
                except OSError:
                    data = b""
                if not data:
                    raise self._stillborn()
                self._control.settimeout(None)
                self._versions = json.loads(data)
            return self._versions

    def order(self, order: Mapping[str, Any], fds: tuple[int, int, int]) -> None:
        """Have it fork a job. The descriptors are those of supervisor, channel and output."""
        self.ready()
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(order).encode()], fds)
            except OSError:
                raise ServerDied(self.obituary()) from None

    def note(self, pid: int) -> None:
        """A job's process, to be killed as a group should the server die."""
        self._jobs.add(pid)

    def forget(self, pid: int) -> None:
        self._jobs.discard(pid)

    def obituary(self) -> str:
        """How it died, in a few words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        if code is None:
            return "it closed its socket"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}{self._last_words()}"

    def close(self) -> None:
        """End the server and its jobs."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # also wakes a thread that waits for the server to start
        self._control.close()  # it buries its jobs, then leaves
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in tuple(self._jobs):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._log.close()

    def _stillborn(self) -> Exception:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        words = self._last_words()
        if "ModuleNotFoundError" in words:
            return MachineError(f"evaluation needs torch and triton in {sys.prefix}{words}")
        if self._process.returncode is not None and self._process.returncode < 0:
            return ServerDied(self.obituary())
        return HarnessError(f"the {self.kind} worker server does not start{words}")

    def _last_words(self) -> str:
        try:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
        except (OSError, ValueError):
            return ""
        return f": {lines[-1].strip()[:300]}" if lines else ""


def inherited(*more: str) -> dict[str, str]:
    """The variables that a trusted process of ours inherits, those named `more` too, with kopt where it was found."""
    return _finding_kopt({name: os.environ[name] for name in (*PASSED, *more) if name in os.environ})


def _environment(kind: str, extra: Mapping[str, str]) -> dict[str, str]:
    environment = _finding_kopt({**inherited(), **_SET, **extra})
    if kind == "interpret":
        environment["TRITON_INTERPRET"] = "1"
    return environment


def _finding_kopt(environment: dict[str, str]) -> dict[str, str]:
    """kopt itself must be found wherever the driver found it, but after what the user put first; relative entries mean
    the driver's folder, not that of whoever gets these."""
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entries.append(str(Path(kopt.__file__).parent.parent))
    unique = dict.fromkeys(str(Path(entry).absolute()) for entry in entries)
    return environment | {"PYTHONPATH": os.pathsep.join(unique)}
