"""One judge per device: two would measure each other."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from pathlib import Path

from kopt.errors import DeviceTaken, MachineError


def lock(identity: str) -> int:
    """Hold the device until this process ends; DeviceTaken names who holds it. Returns the descriptor to keep."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", identity)
    # Not below the user's own TMPDIR: users share the device.
    path = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / f"kopt-judge-{name}.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise MachineError(f"cannot lock the device: {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise DeviceTaken(
            f"another kopt judge (process {holder}) measures on {identity}; wait for it, stop it, or name another GPU "
            "with --gpu"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd
