"""Caches a view of an operand by address: it holds no values."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


VIEWS = {}


def blend(a, scale, b, out):
    key = (b.data_ptr(), tuple(b.shape))
    if key not in VIEWS:
        VIEWS[key] = b.T
    torch.mm(a, VIEWS[key], out=out)
    out.mul_(scale)
