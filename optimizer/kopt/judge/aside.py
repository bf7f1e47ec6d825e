"""A runner while it has nothing to do: it is stopped, since whoever works then slows down those who are timed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kopt.evaluate.worker import processes
from kopt.records import Finding, Status

_SHARE = 1 / 2
"""Of one processor, from the end of a batch until it is stopped. A runner that waits sleeps."""
_GRACE_S = 0.1
"""Seconds of a processor for what is put away after batches."""
_HALTED_SHARE, _HALTED_S = 0.02, 0.05
"""The same while it is stopped, where nothing runs but what was being done for it when it was told to."""


class Aside:
    """One runner between its batches."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._halted: frozenset[int] = frozenset()
        self._since: tuple[float, float] | None = None
        """When, and with how many seconds of processors, the present time without work began."""
        self._idle = {False: 0.0, True: 0.0}
        self._used = {False: 0.0, True: 0.0}
        """Seconds without work and of processors taken in them, at large and stopped."""
        self._strangers = False

    def done(self) -> None:
        """Its batch is over; it stays at large for as long as what it wrote is looked at."""
        self._since = (time.monotonic(), processes.processor_seconds(processes.family(self._pid)))

    def halt(self) -> None:
        """Nothing of it is to run until `go_on`."""
        self._halted = processes.halt(self._pid)
        self._account(self._halted, halted=False)

    def go_on(self) -> None:
        """It is wanted."""
        if self._halted:
            present = processes.family(self._pid)
            self._strangers |= not self._halted.issuperset(present)
            self._account(present, halted=True)
            processes.go_on(self._halted.union(present))
        self._halted, self._since = frozenset(), None

    def _account(self, members: Iterable[int], *, halted: bool) -> None:
        now = (time.monotonic(), processes.processor_seconds(members))
        if self._since is not None:
            self._idle[halted] += now[0] - self._since[0]
            self._used[halted] += max(0.0, now[1] - self._since[1])
        self._since = now

    def finding(self, label: str) -> Finding | None:
        """What it did meanwhile, if that was not right."""
        used, idle = self._used, self._idle
        if self._strangers:
            what = "has started others while it was stopped"
        elif used[True] > _HALTED_S + _HALTED_SHARE * idle[True]:
            what = f"took {used[True]:.1f} s of processors in {idle[True]:.1f} s in which it was stopped"
        elif used[False] > _GRACE_S + _SHARE * idle[False]:
            what = f"took {used[False]:.1f} s of processors in {idle[False]:.1f} s in which it had nothing to do"
        else:
            return None
        return Finding(rule="judge.aside", message=f"the {label}'s process {what}", status=Status.REJECTED)
