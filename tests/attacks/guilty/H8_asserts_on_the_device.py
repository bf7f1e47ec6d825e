"""Stops with an assertion that fails where the work is done: on a GPU, a context that is of no more use."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    torch._assert_async(out.isnan().any())
