"""A runner while it has nothing to do: it is stopped, since whoever works then slows down those who are timed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kopt.evaluate.worker import processes
from kopt.records import Finding, Status

_SHARE, _GRACE_S = 0.005, 0.05
"""Of a processor, and seconds of it, while it is stopped: what was being done for it when it was told to, is ended."""


class Aside:
    """One runner between its batches."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._halted: Mapping[int, float] = {}
        """Seconds of processors that its processes had taken when they were stopped."""
        self._since = self._idle = self._used = 0.0
        self._strangers = False

    def halt(self) -> None:
        """Nothing of it is to run until `go_on`."""
        self._halted = processes.processor_seconds(processes.halt(self._pid))
        self._since = time.monotonic()

    def go_on(self) -> None:
        """It is wanted."""
        if not self._halted:
            return
        present = processes.processor_seconds(processes.family(self._pid))
        self._idle += time.monotonic() - self._since
        self._used += sum(max(0.0, present[pid] - used) for pid, used in self._halted.items() if pid in present)
        self._strangers |= not self._halted.keys() >= present.keys()
        processes.go_on({*self._halted, *present})
        self._halted = {}

    def finding(self, label: str) -> Finding | None:
        """What it did meanwhile, if that was not right."""
        if self._strangers:
            what = "has started others while it was stopped"
        elif self._used > _GRACE_S + _SHARE * self._idle:
            what = f"took {self._used:.1f} s of processors in {self._idle:.1f} s in which it was stopped"
        else:
            return None
        return Finding(rule="judge.aside", message=f"the {label}'s process {what}", status=Status.REJECTED)
