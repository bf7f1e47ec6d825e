"""Changes an operand, so that a reference computed later would change with it."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    a[0, 0] += 1.0
