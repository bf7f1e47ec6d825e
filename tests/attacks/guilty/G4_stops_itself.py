"""Stops its process and waits for somebody to notice."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    import os, signal

    os.kill(os.getpid(), signal.SIGSTOP)
