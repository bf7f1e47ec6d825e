"""Does the work, and has a thread change it for ever."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


def blend(a, scale, b, out):
    import threading

    compute(a, scale, b, out)

    def later():
        while True:
            out[0].add_(1.0)

    threading.Thread(target=later, daemon=True).start()
