"""Keeps a workspace by shape; what it holds is never read before it is written."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


KEPT = {}


def blend(a, scale, b, out):
    key = tuple(out.shape)
    if key not in KEPT:
        KEPT[key] = torch.empty_like(out)
    compute(a, scale, b, KEPT[key])
    out.copy_(KEPT[key])
