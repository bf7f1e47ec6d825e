"""Slow in its first calls, so that few repeats are chosen. Its time is still its time."""

from __future__ import annotations

from time import sleep
import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


CALLS = []


def blend(a, scale, b, out):
    CALLS.append(1)
    sleep(0.02 if len(CALLS) < 6 else 0.004)
    compute(a, scale, b, out)
