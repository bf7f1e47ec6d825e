"""Dies of a signal that Python has no name for."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    import os

    os.kill(os.getpid(), 40)
