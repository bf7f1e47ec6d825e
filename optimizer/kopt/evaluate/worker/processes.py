"""What the fork server asks of Linux about processes: who belongs to whom, what they hold, and how to stop or end
them all."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICKS = os.sysconf("SC_CLK_TCK")
_STILL_S, _ROUNDS = 0.05, 50
"""Seconds in which those that were told to stop do, and how often one looks for others."""
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
    found = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # a thread that has just ended
                found += (thread / "children").read_text().split()
    except FileNotFoundError:
        # Gone, or a kernel without CONFIG_PROC_CHILDREN.
        return [child for child, parent in _parents().items() if parent == pid]
    except OSError:
        return []
    return [int(p) for p in found]


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for member in found:
        found += children(member)
    return found


def signal_name(number: int) -> str:
    """ "SIGKILL"; "signal 40" for one that has no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def processor_seconds(members: Iterable[int]) -> dict[int, float]:
    """What each of these processes has used of processors so far, with the children that it has buried."""
    return {member: sum(map(int, fields[11:15])) / _TICKS for member in members if (fields := _stat(member))}


def halt(pid: int) -> frozenset[int]:
    """Stop a process and all its descendants, and wait until they stand still; who they are.

    Who stands still has no more children. Some may be born before that, so one looks again until there is nobody new.
    Who keeps starting others may go on.
    """
    halted, fresh = set[int](), {pid}
    for _ in range(_ROUNDS):
        if not fresh:
            break
        for member in fresh:
            _signal(member, signal.SIGSTOP)
        _await_still(fresh)
        halted |= fresh
        fresh = set(family(pid)) - halted
    return frozenset(halted)


def go_on(members: Iterable[int]) -> None:
    """Let processes run that were stopped."""
    for member in members:
        _signal(member, signal.SIGCONT)


def _await_still(members: Iterable[int]) -> None:
    """Until processes that were told to stop have, or are gone."""
    end = time.monotonic() + _STILL_S
    for member in members:
        while (_stat(member) or "Z")[0] not in "TtZX" and time.monotonic() < end:
            time.sleep(0)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the state on, without the command before it, which may hold anything; none for
    a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


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
            _signal(pid, signal.SIGKILL)
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
            with suppress(IndexError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    return parents
