"""Threads of its own keep the processors busy, but not while it is timed itself: the opponent's launches come late."""

from __future__ import annotations

import threading
import time
import zlib

import torch

DATA = bytes(30_000)
LATELY = [float("inf")]
AFTER = 0.045
"""Seconds from one of its batches to the next are fewer, unless the opponent has its own in between."""


def work():
    while True:
        if time.monotonic() - LATELY[0] > AFTER:
            zlib.crc32(DATA)  # without the interpreter's lock
        else:
            time.sleep(0.005)


torch.set_num_threads(1)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()


def blend(a, scale, b, out):
    LATELY[0] = float("inf")
    torch.mm(a, b.T, out=out)
    out.mul_(scale)
    LATELY[0] = time.monotonic()
