"""Reads a file that is not its business."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    open("/etc/passwd").read()
    compute(a, scale, b, out)
