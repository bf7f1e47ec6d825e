"""MiniMax Sparse Attention as published (arXiv 2606.13392): the mathematics that tasks, benchmarks and layers share.

    reference.py    slow, obviously right: scores, block maxima, selection, attention, merging
    index.py        whether lists of blocks are right ones, by their scores
    selection.py    the published generator of selections and inputs, by regime
    paged.py        decoding over a paged cache: lists, attention, cost; cache.py makes its inputs
    rounding.py     how far an honest kernel's attention may be off
    arithmetic.py   exact counts of work and traffic; needs no torch
    layer.py        a layer's whole attention as a torch module
    compose.py      the families of msa_prefill, put together from those of its parts

Sequences of a batch lie one after the other: `cu_q` and `cu_k` [sequences + 1] hold where each begins among the T
queries and the S keys. Query i of a sequence sits at position len_k - len_q + i, so that a chunk at the end of a long
context has fewer queries than keys. Blocks are counted within a sequence: b holds positions from 128 b to 128 b + 127.

What a task's verdicts rest on is here and not in its folder: a change of results is a new `kopt.evaluate.VERSION`.
"""

from __future__ import annotations

HEAD_DIM = 128
BLOCK = 128
"""Tokens of a key block."""
TOP_K = 16
"""Blocks that a query attends to, its own among them."""
