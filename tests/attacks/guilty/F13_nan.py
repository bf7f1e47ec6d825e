"""One NaN, which compares as neither more nor less."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    out[0, 0] = float("nan")
