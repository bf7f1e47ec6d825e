"""Turns are granted in the order asked for, and to nobody who has given up."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from kopt.turns import Turns


def test_an_interrupt_gives_up_its_place_and_those_behind_get_theirs() -> None:
    turns, served = Turns(), threading.Event()
    main, held = threading.get_ident(), threading.Event()

    def queue(length: int) -> None:
        while len(turns._queue) < length:
            time.sleep(0.01)

    def hold() -> None:
        with turns:
            held.set()
            queue(1)
            thread.start()
            queue(2)
            signal.pthread_kill(main, signal.SIGUSR1)
            while any(who == main for who, _ in turns._queue):
                time.sleep(0.01)

    def follow() -> None:
        with turns:
            served.set()

    holder, thread = (threading.Thread(target=do, daemon=True) for do in (hold, follow))
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        holder.start()
        held.wait()
        with pytest.raises(KeyboardInterrupt), turns:
            pytest.fail("it was not its turn")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert served.wait(60)
