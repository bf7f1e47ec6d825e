"""Processor time that a runner takes while it has nothing to do: whoever works then slows down those who are timed."""

from __future__ import annotations

import time

from kopt.evaluate.worker.processes import processor_seconds
from kopt.records import Finding, Status

_SHARE = 1 / 3
"""Of one processor. A runner that waits sleeps."""
_GRACE_S = 0.1
"""Seconds of it for what is put away after a batch."""


class Aside:
    """One runner between its batches."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._left: tuple[float, float] | None = None
        self._idle = self._used = 0.0

    def leave(self) -> None:
        """Its batch is over."""
        self._left = (time.monotonic(), processor_seconds(self._pid))

    def back(self, label: str) -> Finding | None:
        """It is to get another one; what it did meanwhile, if that was not right."""
        if self._left is None:
            return None
        since, used = self._left
        self._idle += time.monotonic() - since
        self._used += max(0.0, processor_seconds(self._pid) - used)
        self._left = None
        if self._used <= _GRACE_S + _SHARE * self._idle:
            return None
        took = f"took {self._used:.1f} s of processors in {self._idle:.1f} s in which it had nothing to do"
        return Finding(rule="judge.aside", message=f"the {label}'s process {took}", status=Status.REJECTED)
