"""Takes the device's memory to the last byte, and then wants more."""

from __future__ import annotations

import torch

held = []


def blend(a, scale, b, out):
    size = 1 << 36
    while size >= 512:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=out.device))
        except torch.OutOfMemoryError:
            size //= 2
    out.copy_(a @ b.T)
    out.mul_(scale)
