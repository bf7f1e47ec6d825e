"""What stands between a candidate and the machine. Each wall can be chosen on its own; what a kernel lacks is named.

Behind the walls stands the fork server, which kills whatever is left of a job whether or not a wall held. None of them
divides a process from itself: a candidate and the code that called it share one memory.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kopt.evaluate.worker import landlock, seccomp
from kopt.evaluate.worker.processes import prctl

NAMES = ("limits", "capabilities", "landlock", "seccomp")
_SIGNALS = 128
"""That wait, timers among them: thousands that go off cost processors that are charged to somebody else, or nobody."""
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4


@dataclass(frozen=True)
class Walls:
    """The walls of one process; the defaults are those of a candidate on the CPU.

    A CUDA process needs an address space without limit, its devices, and some of what `denied` holds.
    """

    read: tuple[str, ...] = ()
    """Trees and files it may read."""
    write: tuple[str, ...] = ()
    """Trees in which it may make, write and remove files and folders."""
    devices: tuple[str, ...] = ("/dev/null",)
    """Device nodes or trees of them, to be read, written and controlled."""
    denied: tuple[seccomp.Group, ...] = seccomp.GROUPS
    """Groups of system calls it gives up; without any there is no filter."""
    landlock: bool = True
    """Whether `read`, `write` and `devices` are all it sees of the file system."""
    execute: bool = False
    """Whether programs below `read` may be run; "processes" must then not be denied."""
    capabilities: bool = False
    """Whether it keeps the capabilities that root has. Without them root cannot read another process's memory."""
    address_space: int | None = 48 << 30
    """Bytes. Generous, because memory that is reserved and never touched costs nothing: tensors at full problem size.
    What a process really holds is watched from outside."""
    file_size: int | None = 1 << 30
    open_files: int | None = 512
    cpu_seconds: int | None = None
    processes: int | None = None
    """And threads, of all that run as the same user: for a process that has a user to itself."""

    def up(self) -> dict[str, str]:
        """Raise them around this process, for good. "up", or "missing: " and why, by name.

        Call it before a second thread exists: the walls stand around the calling thread and those it starts.
        """
        state = {"limits": _raised(self._limit)}
        if not self.capabilities:
            state["capabilities"] = _raised(_drop_capabilities)
        if self.landlock:
            state["landlock"] = _raised(
                lambda: landlock.restrict(
                    (*self.read, *_SYSTEM, f"/proc/{os.getpid()}"),
                    self.write,
                    execute=self.execute,
                    devices=self.devices,
                    tcp=not {"sockets", "network"} & set(self.denied),
                )
            )
        if self.denied:
            state["seccomp"] = _raised(lambda: seccomp.deny(self.denied))
        return state

    def _limit(self) -> None:
        for which, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, self.address_space),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_CPU, self.cpu_seconds),
            (resource.RLIMIT_SIGPENDING, _SIGNALS),
            (resource.RLIMIT_NPROC, self.processes),
        ):
            if value is not None:
                hard = resource.getrlimit(which)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(which, (value, value))


# What libc, Python, OpenMP and torch read of a Linux system. Of /etc as little as a name lookup needs, of /proc nothing
# that belongs to another process.
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/timezone", "/dev/zero", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/proc/sys/vm", "/sys/devices/system",
)  # fmt: skip


def installed() -> tuple[str, ...]:
    """Where Python and every module loaded so far lie: the standard library, site-packages, single packages elsewhere.

    Of sys.path's other entries only those that hold installed packages, such as a user's own site-packages: the rest
    may be a project with its secrets beside a package.
    """
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    found |= {str(Path(base) / lib) for base in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64")}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file:
            path = Path(file)
            found.add(str(path.parent if path.stem == "__init__" else path))
    roots: list[list[str]] = []
    for parts in sorted(os.path.realpath(path).split("/") for path in found):
        if not roots or parts[: len(roots[-1])] != roots[-1]:
            roots.append(parts)
    return tuple("/".join(parts) for parts in roots)


@functools.cache
def probe() -> dict[str, str]:
    """Which walls hold on this machine: "up", or "missing: " and why. Tried in a process of its own, not looked up."""
    if sys.platform != "linux":
        return dict.fromkeys(NAMES, f"missing: there is none on {sys.platform}")
    package = str(Path(__file__).parents[3])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from kopt.evaluate.worker import walls; walls._attempt()"],
            env={"PYTHONPATH": package, "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")},
            capture_output=True,
            timeout=30,
            check=True,
        )
        state: dict[str, str] = json.loads(done.stdout)
        return state
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return dict.fromkeys(NAMES, f"missing: the attempt to raise it failed ({type(error).__name__})")


def _attempt() -> None:
    """Raise the walls around this process, run against each, and print what held."""
    state = Walls(read=installed()).up()
    attempts: dict[str, tuple[Callable[[], object], ...]] = {
        "capabilities": (_use_capabilities,),
        "landlock": (lambda: os.scandir("/"), lambda: Path("/proc/1/environ").read_bytes()),
        "seccomp": (lambda: os.fork() or os._exit(0), socket.socket, lambda: os.kill(os.getppid(), 0)),
        "limits": (lambda: [os.dup(0) for _ in range(600)],),  # the last: it leaves no descriptor for the others
    }
    for name, tries in attempts.items():
        if state[name] == "up" and not all(_refused(attempt) for attempt in tries):
            state[name] = "missing: raised, but it does not hold"
    sys.stdout.write(json.dumps(state))


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


def _use_capabilities() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    if not any(int(line.split()[1], 16) for line in status if line.startswith(("CapEff:", "CapPrm:"))):
        raise PermissionError("no capabilities")


def _raised(wall: Callable[[], None]) -> str:
    try:
        wall()
    except (OSError, ValueError) as error:
        return f"missing: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
    return "up"


def _drop_capabilities() -> None:
    """Give up every capability, for this process and whatever it could execute."""
    with suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        with suppress(OSError):  # not in the kernel, or not ours to drop
            prctl(_PR_CAPBSET_DROP, capability)
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, bytes(24)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
