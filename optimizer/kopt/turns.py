"""Whose turn it is: a lock that is granted in the order it was asked for, so that nobody starves."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType


class Turns:
    """Re-entrant for the thread that holds it. Python's own locks make no promise about who comes next."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._queue: deque[tuple[int, threading.Event]] = deque()
        self._local = threading.local()

    def __enter__(self) -> None:
        me, gate = threading.get_ident(), threading.Event()
        started = time.monotonic()
        try:
            with self._guard:
                if self._owner in (None, me):
                    self._owner, self._depth = me, self._depth + 1
                    return
                self._queue.append((me, gate))
            gate.wait()
        except BaseException:  # an interrupt: whoever comes next must not wait for a turn that nobody takes
            with self._guard:
                if gate.is_set():
                    self._pass_on()
                elif (me, gate) in self._queue:
                    self._queue.remove((me, gate))
            raise
        self._local.waited = getattr(self._local, "waited", 0.0) + time.monotonic() - started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            self._pass_on()

    def _pass_on(self) -> None:
        self._owner, self._depth = None, 0
        if self._queue:
            self._owner, gate = self._queue.popleft()
            self._depth = 1
            gate.set()

    def waited(self) -> float:
        """Seconds this thread has spent in the queue since it last asked."""
        seconds: float = getattr(self._local, "waited", 0.0)
        self._local.waited = 0.0
        return seconds
