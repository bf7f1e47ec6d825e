"""Allocates a workspace in every call."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    work = torch.empty(a.shape[0], b.shape[0], device=a.device)
    compute(a, scale, b, work)
    out.copy_(work)
