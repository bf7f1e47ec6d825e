"""The runner's walls: another uid where we are root, no network, and those of evaluate/worker/walls.py fitted to it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kopt.evaluate.worker import processes
from kopt.evaluate.worker.walls import Walls, installed

_CLONE_NEWNET = 0x40000000
NOBODY = 65534
_PROCESSES = 2048
_USERS = range(61184, 65520)
"""Users without a name, a file or a right; systemd gives them to services in the same way."""

# CUDA reads its configuration and the topology, opens its devices, and names its threads by writing to
# /proc/<pid>/task/<tid>/comm, without which cuInit fails with error 304. Triton runs ptxas and a C compiler, which
# Debian finds through /etc/alternatives.
_CUDA_READ = ("/etc/nvidia", "/etc/alternatives", "/proc", "/sys", "/opt", "/run/nvidia-persistenced")
_CUDA_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/shm")


def up(payload: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Raise what can be raised, and say which stand. Before any of the candidate's code, and before a second thread."""
    if payload["trusted"]:
        return {}
    standing = {"network": _no_network(), "uid": "missing: kopt is not root"}
    if os.getuid() == 0 and (shut := _shut(installed())):
        standing["uid"] = f"missing: only root can enter {shut}, where Python lies"
    elif os.getuid() == 0:
        parent = os.getppid()
        become(folder)
        # A change of uid clears the signal that the parent's death sends.
        processes.die_with_parent(parent)
        standing["uid"] = "up"
    return {**standing, **_WALLS[payload["backend"]](folder).up()}


def become(folder: Path) -> int:
    """Be a user as whom nothing else runs, with a folder of its own; which one.

    Not one user for all: a runner could then stop, slow down or limit that of its opponent.
    """
    taken: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, StopIteration):  # gone meanwhile
            taken.add(next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("Uid:")))
    # From different places on, so that two which look at the same time do not find the same one.
    first = os.getpid() % len(_USERS)
    free: list[int] = [user for user in (*_USERS[first:], *_USERS[:first]) if user not in taken]
    for user in [*free, NOBODY]:
        try:
            _hand_over(folder, user)
        except OSError:  # a namespace may know few users
            continue
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(user, user, user)
        # Who has no name in /etc/passwd needs one here: getpass asks for it, and torch asks getpass.
        os.environ["LOGNAME"] = f"kopt-{user}"
        return user
    raise AssertionError("there is always nobody")


def _cuda(folder: Path) -> Walls:
    nodes = tuple(str(path) for path in Path("/dev").glob("nvidia*"))
    return Walls(
        read=(*installed(), *_CUDA_READ),
        write=(str(folder), f"/proc/{os.getpid()}/task"),
        devices=(*nodes, *_CUDA_DEVICES),
        denied=("inspection", "network", "kernel"),
        execute=True,
        address_space=None,  # CUDA reserves far more than it uses
        open_files=4096,
        processes=_processes(),
    )


def _compiler(folder: Path) -> Walls:
    """As around a runner on a GPU, whose compilers run here, but without a device."""
    return Walls(
        read=(*installed(), "/etc/alternatives", "/proc", "/opt"),
        write=(str(folder),),
        devices=("/dev/null", "/dev/zero", "/dev/urandom"),
        denied=("inspection", "network", "kernel"),
        execute=True,
        open_files=4096,
        processes=_processes(),
    )


def _cpu(folder: Path) -> Walls:
    return Walls(read=installed(), write=(str(folder),))


def _processes() -> int | None:
    """How many processes and threads there may be of a user as whom nobody else runs."""
    return _PROCESSES if os.getuid() in _USERS else None


_WALLS: Mapping[str, Callable[[Path], Walls]] = {"cuda": _cuda, "cpu": _cpu, "compiler": _compiler}


def _no_network() -> str:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        return "missing: " + os.strerror(ctypes.get_errno())
    return "up"


def _shut(paths: Iterable[str]) -> str:
    """A folder above one of these that others cannot enter, or ""."""
    for path in paths:
        for folder in (Path(path), *Path(path).parents):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                return str(folder)
    return ""


def _hand_over(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, NOBODY, follow_symlinks=False)
