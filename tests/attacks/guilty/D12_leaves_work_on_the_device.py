"""Queues work behind its own on a stream of its own, so that whoever is measured next is slower."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


torch.cuda.synchronize = lambda *a: torch.cuda.default_stream().synchronize()
SIDE = torch.cuda.Stream() if torch.cuda.is_available() else None
X = torch.randn(4096, 4096, device="cuda") if SIDE else None
Y = torch.empty_like(X) if SIDE else None


def blend(a, scale, b, out):
    compute(a, scale, b, out)
    with torch.cuda.stream(SIDE):
        for _ in range(40):
            torch.mm(X, X, out=Y)
