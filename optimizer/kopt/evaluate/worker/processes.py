"""What the fork server asks of Linux about processes: who belongs to whom, what they hold, and how to end them all."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
    """prctl(2); OSError on failure."""
    values = (ctypes.c_ulong(v) for v in (a, b, c, d))
    if _libc.prctl(ctypes.c_int(option), *values) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """From here on orphans among this process's descendants become its children."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Die when the parent's forking thread does; at once if it already has."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def offer_to_oom_killer() -> None:
    """When the machine runs out of memory, let it be this process that goes, not the driver."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def memory(pid: int) -> int:
    """Bytes of memory, swapped or not, that are not backed by a file; 0 for a process that is gone."""
    total = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123  (polled: pathlib costs more than the read)
            for line in status:
                if line.startswith((b"RssAnon:", b"RssShmem:", b"VmSwap:")):
                    total += int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    return total


def children(pid: int) -> list[int]:
    """Direct children of a process, by any of its threads."""
    try:
        found = []
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += (thread / "children").read_text().split()
        return [int(p) for p in found]
    except FileNotFoundError:
        # Gone, or a kernel without CONFIG_PROC_CHILDREN.
        return [child for child, parent in _parents().items() if parent == pid]
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for member in found:
        found += children(member)
    return found


def signal_name(number: int) -> str:
    """ "SIGKILL"; "signal 40" for one that has no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def processor_seconds(pid: int) -> float:
    """What a process and its descendants have used of processors so far, those that it has buried included."""
    ticks = 0
    for member in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def bury(keep: frozenset[int], patience: float = 10.0) -> None:
    """Kill and reap every child of this process but those to keep, and theirs as they arrive, until none is left."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if not keep and not _any_child():
            return
        strays = [pid for pid in children(os.getpid()) if pid not in keep]
        if not strays:
            return
        for pid in strays:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    time.sleep(0.001)


def _any_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                # The command in parentheses may itself hold spaces and parentheses.
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(after[1])
    return parents
