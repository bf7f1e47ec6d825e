"""Closes all files and sockets of its process."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    import os

    os.closerange(0, 4096)
    compute(a, scale, b, out)
