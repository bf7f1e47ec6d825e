"""Does more work in its first call, as an autotuner does."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


WARM = []


def blend(a, scale, b, out):
    if not WARM:
        for _ in range(5):
            compute(a, scale, b, torch.empty_like(out))
        WARM.append(True)
    compute(a, scale, b, out)
