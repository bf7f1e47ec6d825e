"""A kernel that never ends."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


@triton.jit
def crime(p):
    while tl.load(p, volatile=True) > -1e30:
        pass


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    crime[(1,)](out)
