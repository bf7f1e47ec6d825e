"""nvdisasm, started ahead of the code that it is to read.

Before it reads bare code, nvdisasm spends 0.35 s on tables for the architecture: as long as many a compilation takes.
It opens its input twice, before the tables and after. So it is started on a placeholder while other work goes on, and
a lease on that file makes its second open wait until the code is in it: what is left then takes 0.04 s. The kernel
breaks a lease after 45 s, and at once when this process is gone; then, as where leases do not exist, it has read the
placeholder and left. The number of instructions that it prints tells, and then it is run again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kopt.errors import HarnessError
from kopt.evaluate import sass

_FIRST_OPEN = 0.05
"""Seconds after the start by which it has opened its input once (it takes 4 ms) and not twice. A start that is slower
than that waits at its first open instead: right as well, merely late."""
_PATIENCE = 60.0
_WORD = 16
"""Bytes of an instruction."""
_KIN = {103: 100}
"""Architectures with the instructions of another, which an older nvdisasm knows by that one alone."""


class Disassemblers:
    """Runs nvdisasm, one process per cubin, started ahead. Thread-safe."""

    def __init__(self, tool: Callable[[], str], folder: Path) -> None:
        """`tool` tells the path of nvdisasm, and is called when the first one is needed; `folder` is made then."""
        self._tool = tool
        self._lock = threading.Lock()
        self._ready: dict[int, list[_Process]] = {}
        self._folder = folder
        self._closed = False

    def prepare(self, arch: int) -> None:
        """See that one is on its way for an architecture."""
        with self._lock:
            waiting = self._ready.setdefault(arch, [])
            waiting[:] = [process for process in waiting if process.alive or process.end()]
            if not waiting and not self._closed:
                waiting.append(self._start(arch))

    def take(self, arch: int) -> Disassembler:
        """One to read one cubin with; to be closed."""
        with self._lock:
            if self._closed:
                raise HarnessError("the compiler is closed")
            waiting = self._ready.get(arch)
            process = waiting.pop() if waiting else self._start(arch)
        return Disassembler(process, lambda name: _Process(self._tool(), name, self._folder), arch)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for processes in self._ready.values():
                for process in processes:
                    process.end()
            self._ready.clear()

    def _start(self, arch: int) -> _Process:
        return _Process(self._tool(), _names(arch)[0], self._folder)


class Disassembler:
    """Reads one cubin's code."""

    def __init__(self, process: _Process, again: Callable[[str], _Process], arch: int) -> None:
        self._process, self._again, self._arch = process, again, arch

    def read(self, words: bytes) -> tuple[sass.Instruction, ...]:
        """The instructions of bare machine code. HarnessError, with the tool's words, when it does not know them."""
        wanted = len(words) // _WORD
        found, complaint = self._process.read(words)
        for name in _names(self._arch):
            if len(found) == wanted:
                return found
            self._process = self._again(name)
            found, complaint = self._process.read(words)
        if len(found) != wanted:
            raise HarnessError(f"nvdisasm printed {len(found)} instructions of {wanted}: {complaint.strip()[:300]}")
        return found

    def close(self) -> None:
        self._process.end()


class _Process:
    """One nvdisasm."""

    def __init__(self, tool: str, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, path = tempfile.mkstemp(suffix=".bin", dir=folder)
        self._path = Path(path)
        os.write(self._file, bytes(_WORD))
        self._open = True
        self._process = subprocess.Popen(
            [tool, "--binary", name, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(_FIRST_OPEN, self._lease)
        self._timer.daemon = True
        self._timer.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def read(self, words: bytes) -> tuple[tuple[sass.Instruction, ...], str]:
        """Instructions and complaints. Ends it."""
        os.pwrite(self._file, words, 0)
        self._release()
        try:
            output, complaint = self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, complaint = self._process.communicate()
        self.end()
        return sass.parse(output), complaint

    def end(self) -> bool:
        """Leave nothing of it behind; False, so that a list can be weeded by it."""
        self._release()
        if self._process.poll() is None:
            self._process.kill()
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        self._process.wait()
        if self._open:
            self._open = False
            os.close(self._file)
            self._path.unlink(missing_ok=True)
        return False

    def _lease(self) -> None:
        with suppress(OSError):  # no leases on this file system, or in this sandbox
            # The signal that tells of another's open would end the process; this one is ignored by default.
            fcntl.fcntl(self._file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def _release(self) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._open:
            with suppress(OSError):
                fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _names(arch: int) -> list[str]:
    """What nvdisasm calls an architecture, the likeliest first; the last is a second try."""
    return [f"SM{number}a" if number >= 90 else f"SM{number}" for number in (arch, _KIN.get(arch, arch))]
