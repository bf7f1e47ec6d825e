"""nvdisasm, started ahead of the code that it is to read.

Before it reads bare code, nvdisasm spends 0.35 s on tables for the architecture: as long as many a compilation takes.
It opens its input twice, before the tables and after. So it is started on a placeholder while the compiler works, and
a lease on that file makes its second open wait until the code is in it. Where leases do not exist it merely reads the
placeholder; the number of instructions that it prints tells which it was, and then it is run again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kopt.evaluate import sass

_FIRST_OPEN = 0.05
"""Seconds after the start by which it has opened its input once (it takes 4 ms) and not twice. A start that is slower
than that waits at its first open instead: right as well, merely late."""
_PATIENCE = 60.0
_WORD = 16
"""Bytes of an instruction."""
_KIN = {103: 100}
"""Architectures with the instructions of another, which an older nvdisasm knows by that one alone."""


class Disassembler:
    """One use of nvdisasm; a context manager that leaves no process behind. For the main thread of a child."""

    def __init__(self, tool: str, arch: int, folder: Path) -> None:
        """`tool` is the path of nvdisasm; `folder` is private. Starts at once."""
        # A lease that someone else's open breaks is announced by this signal, which would end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        self._tool = tool
        self._path = folder / "code.bin"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(self._file, bytes(_WORD))
        self._names = [_name(arch), *(_name(kin) for kin in (_KIN.get(arch),) if kin)]
        self._complaint = ""
        self._process = self._start(self._names[0])
        self._timer = threading.Timer(_FIRST_OPEN, self._lease, (fcntl.F_WRLCK,))
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._release()
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        os.close(self._file)

    def read(self, words: bytes) -> tuple[sass.Instruction, ...]:
        """The instructions of bare machine code. RuntimeError, with the tool's words, when it does not know them."""
        os.pwrite(self._file, words, 0)
        self._release()
        wanted = len(words) // _WORD
        found = self._finish(self._process)
        for name in self._names:
            if len(found) == wanted:
                return found
            found = self._finish(self._start(name))
        if len(found) != wanted:
            raise RuntimeError(f"nvdisasm printed {len(found)} instructions of {wanted}: {self._complaint.strip()}")
        return found

    def _start(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._tool, "--binary", name, str(self._path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _finish(self, process: subprocess.Popen[str]) -> tuple[sass.Instruction, ...]:
        try:
            output, self._complaint = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, self._complaint = process.communicate()
        return sass.parse(output)

    def _release(self) -> None:
        self._timer.cancel()
        self._timer.join()
        self._lease(fcntl.F_UNLCK)

    def _lease(self, kind: int) -> None:
        with suppress(OSError):  # no leases on this file system, or in this sandbox
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, kind)


def _name(arch: int) -> str:
    return f"SM{arch}a" if arch >= 90 else f"SM{arch}"
