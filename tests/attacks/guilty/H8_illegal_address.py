"""Writes far outside its tensors on the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


@triton.jit
def crime(p):
    tl.store(p + 1152921504606846976, 1.0)


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    crime[(1,)](out)
