"""Never writes the last column."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    kept = out[:, -1].clone()
    compute(a, scale, b, out)
    out[:, -1] = kept
