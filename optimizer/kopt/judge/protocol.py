"""What judge and runner share: two pages of words and a few messages. Neither trusts the other.

A batch goes like this. Over the socket the judge describes it, and the runner prepares its argument lists and answers.
The judge draws inputs in private, rests if the regime wants it, and raises ALERT. The runner stops sleeping between
looks, makes one call on the old inputs so that host code and context are awake, and writes READY. The judge starts its
clock, reveals the inputs, writes one nonce per call into the ring and then GO. The runner makes its calls, echoes in
PROGRESS the nonce of the call it last returned from, waits for its stream and writes the last nonce to DONE. DONE is
advisory: what counts is what the judge then finds in the outputs, and when.

The page of orders is sealed: the runner can map it for reading only, so no other process can raise GO or forge a nonce.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import threading
import time
from collections.abc import Callable

ALERT, GO, RING = 0, 1, 8
"""Words of the orders page: batch number to be alert for; batch number to go on; first nonce of the ring."""
READY, PROGRESS, DONE, SPENT = 0, 1, 2, 3
"""Words of the reports page; the last: nanoseconds of the device's in a batch without calls."""
RING_CALLS = 16384
"""Calls a batch can have at most."""
_ORDERS_BYTES = (RING + RING_CALLS) * 8
_REPORTS_BYTES = 4096
_SEAL_FUTURE_WRITE = 0x0010  # linux/fcntl.h; in Python's fcntl from 3.13
_SPINS = 500
"""Looks at a word between looks at the clock."""

NOTHING = 0
"""No nonce and no batch number is ever this."""


class Timeout(Exception):
    """The word did not come."""


class Words:
    """A shared page of 64-bit words. A store or load of an aligned word is one instruction on x86-64 and AArch64."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._words = memoryview(mmap.mmap(fd, size, access=access)).cast("Q")

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._words[at] = value

    def fill(self, at: int, values: list[int]) -> None:
        """Write many words, and make them visible before anything that is written later."""
        for i, value in enumerate(values, at):
            self._words[i] = value
        fence()

    def wait(
        self, at: int, value: int, seconds: float, *, alive: Callable[[], None] | None = None, nap: float = 0.0
    ) -> None:
        """Spin until word `at` is `value`. `alive` raises when waiting is vain; `nap`: seconds between looks.

        Timeout after `seconds`.
        """
        words, end = self._words, time.monotonic() + seconds
        while True:
            for _ in range(1 if nap else _SPINS):
                if words[at] == value:
                    fence()
                    return
            if alive is not None:
                alive()
            if time.monotonic() > end:
                raise Timeout
            if nap:
                time.sleep(nap)
            else:
                os.sched_yield()  # where cores are few, the other side may be waiting for this one


_lock = threading.Lock()


def fence() -> None:
    """Order memory accesses across it: on AArch64 two words may otherwise be seen in the wrong order."""
    with _lock:
        pass


def memory(name: str, nbytes: int) -> int:
    """A descriptor of anonymous shared memory of sealed size: a page taken away is a SIGBUS for who looks at it.

    Nor can whoever gets the descriptor add a seal: one against writing would outlive it.
    """
    fd = _memory(name, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    return fd


def _memory(name: str, nbytes: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def orders() -> tuple[Words, int]:
    """The judge's page, and a descriptor that from now on can be mapped for reading only."""
    fd = _memory("kopt-orders", _ORDERS_BYTES)
    words = Words(fd, _ORDERS_BYTES, writable=True)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    return words, fd


def reports() -> tuple[Words, int]:
    """The page that the runner writes and the judge reads."""
    fd = memory("kopt-reports", _REPORTS_BYTES)
    return Words(fd, _REPORTS_BYTES, writable=True), fd


def attach_orders(fd: int) -> Words:
    return Words(fd, _ORDERS_BYTES, writable=False)


def attach_reports(fd: int) -> Words:
    return Words(fd, _REPORTS_BYTES, writable=True)


def nonces(count: int) -> list[int]:
    """Unpredictable, and never `NOTHING`."""
    return [secrets.randbits(64) | 1 for _ in range(count)]
