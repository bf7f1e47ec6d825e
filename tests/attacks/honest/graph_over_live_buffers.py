"""Replays a CUDA graph by address, which reads its operands anew."""

from __future__ import annotations

import torch


def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)


GRAPHS = {}


def blend(a, scale, b, out):
    key = tuple(t.data_ptr() for t in (a, scale, b, out)) + tuple(out.shape)
    if not a.is_cuda or torch.cuda.is_current_stream_capturing():
        compute(a, scale, b, out)
        return
    if key not in GRAPHS:
        compute(a, scale, b, out)
        torch.cuda.synchronize()
        GRAPHS[key] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(GRAPHS[key]):
            compute(a, scale, b, out)
    GRAPHS[key].replay()
