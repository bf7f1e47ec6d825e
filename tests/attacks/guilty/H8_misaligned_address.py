"""Writes eight bytes to an address that is no multiple of eight."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


@triton.jit
def crime(p):
    crooked = (p.to(tl.int64) + 4).to(tl.pointer_type(tl.int64))
    tl.store(crooked, 0)


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    crime[(1,)](out)
