"""Another way for small shapes."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    if out.shape[0] > 100:
        compute(a, scale, b, out)
    else:
        out.copy_(scale * (a @ b.T))
