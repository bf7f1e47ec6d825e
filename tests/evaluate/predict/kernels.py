"""Kernels that no family of ours resembles, for the counting interpreter. Each entry launches one or two of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def flash_kernel(q_ptr, k_ptr, v_ptr, out_ptr, L, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    start = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1)
    rows = start + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    base = head * L * D
    q = tl.load(q_ptr + base + rows[:, None] * D + dims[None, :], mask=rows[:, None] < L, other=0.0)
    best = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, D), dtype=tl.float32)
    for at in range(0, tl.minimum(start + BLOCK_M, L), BLOCK_N):
        cols = at + tl.arange(0, BLOCK_N)
        inside = cols[:, None] < L
        k = tl.load(k_ptr + base + cols[:, None] * D + dims[None, :], mask=inside, other=0.0)
        scores = tl.where(rows[:, None] >= cols[None, :], tl.dot(q, k.T), float("-inf"))
        largest = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - largest[:, None])
        scale = tl.exp2(best - largest)
        total = total * scale + tl.sum(weights, 1)
        v = tl.load(v_ptr + base + cols[:, None] * D + dims[None, :], mask=inside, other=0.0)
        acc = acc * scale[:, None] + tl.dot(weights.to(tl.bfloat16), v)
        best = largest
    out = (acc / total[:, None]).to(tl.bfloat16)
    tl.store(out_ptr + base + rows[:, None] * D + dims[None, :], out, mask=rows[:, None] < L)


def flash(q, k, v, out, *, BLOCK_M=32, BLOCK_N=16):
    heads, length, depth = q.shape
    flash_kernel[(triton.cdiv(length, BLOCK_M), heads)](q, k, v, out, length, depth, BLOCK_M, BLOCK_N)


@triton.jit
def gather_kernel(ids_ptr, counts_ptr, x_ptr, out_ptr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    at = tl.program_id(0)
    cols = tl.arange(0, WIDTH)
    acc = tl.zeros((WIDTH,), dtype=tl.float32)
    for i in range(tl.load(counts_ptr + at)):
        block = tl.load(ids_ptr + at * 8 + i)
        if block >= 0:
            rows = block * ROWS + tl.arange(0, ROWS)
            acc += tl.sum(tl.load(x_ptr + rows[:, None] * WIDTH + cols[None, :]).to(tl.float32), 0)
    tl.store(out_ptr + at * WIDTH + cols, acc)


def gather(ids, counts, x, out, *, ROWS=8):
    gather_kernel[(ids.shape[0],)](ids, counts, x, out, x.shape[1], ROWS)


@triton.jit
def accumulate_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + cols, mask=cols < N, other=0.0)
    tl.atomic_add(out_ptr, tl.sum(libdevice.tanh(x)))
    tl.atomic_add(out_ptr + 1 + cols % 4, x, mask=cols < N)


def accumulate(x, out, *, BLOCK=64):
    accumulate_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK)


@triton.autotune(
    configs=[triton.Config({"BLOCK": 32}, num_warps=2), triton.Config({"BLOCK": 128}, num_warps=4)], key=["N"]
)
@triton.heuristics({"EVEN": lambda args: args["N"] % args["BLOCK"] == 0})
@triton.jit
def scale_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = None if EVEN else at < N
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) * 2.0, mask=mask)


def scale(x, out):
    n = x.numel()
    scale_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n)


def scale_in_graph(x, out):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scale(x, out)
    graph.replay()
    graph.replay()


REPLAYED = {}


def scale_once_then_in_graph(x, out):
    key = (x.data_ptr(), out.data_ptr())
    if key not in REPLAYED:
        scale(x, out)
        REPLAYED[key] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(REPLAYED[key]):
            scale(x, out)
    REPLAYED[key].replay()


@triton.jit
def queue_kernel(counter_ptr, x_ptr, out_ptr, tiles, BLOCK: tl.constexpr):
    tile = tl.atomic_add(counter_ptr, 1)
    while tile < tiles:
        at = tile * BLOCK + tl.arange(0, BLOCK)
        tl.store(out_ptr + at, tl.load(x_ptr + at))
        tile = tl.atomic_add(counter_ptr, 1)


def queue(x, out, *, BLOCK=64):
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    queue_kernel[(sms,)](counter, x, out, x.numel() // BLOCK, BLOCK)


@triton.jit
def promoted_kernel(a_ptr, b_ptr, out_ptr, K, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Carries its own counter: no iteration may be left out."""
    rows = tl.arange(0, BLOCK)
    ks = tl.arange(0, BLOCK_K)
    part = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    acc = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    turn = 0
    k = 0
    while k < K:
        a = tl.load(a_ptr + rows[:, None] * K + k + ks[None, :])
        b = tl.load(b_ptr + rows[:, None] * K + k + ks[None, :])
        part = tl.dot(a, b.T, part)
        turn += 1
        if turn == 4:
            acc += part
            part = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
            turn = 0
        k += BLOCK_K
    tl.store(out_ptr + rows[:, None] * BLOCK + rows[None, :], acc + part)


def promoted(a, b, out, *, BLOCK_K=16):
    promoted_kernel[(1,)](a, b, out, a.shape[1], a.shape[0], BLOCK_K)


@triton.jit
def histogram_kernel(ids_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(ids_ptr + at, mask=at < N, other=0)
    tl.atomic_add(counts_ptr + ids, 1, mask=at < N)


@triton.jit
def starts_kernel(counts_ptr, starts_ptr, BINS: tl.constexpr):
    bins = tl.arange(0, BINS)
    counts = tl.load(counts_ptr + bins)
    tl.store(starts_ptr + bins, tl.cumsum(counts, 0) - counts)


@triton.jit
def bins_kernel(starts_ptr, counts_ptr, x_ptr, out_ptr, WIDTH: tl.constexpr):
    """As many rows of x as a histogram counted, from where it says."""
    bin = tl.program_id(0)
    cols = tl.arange(0, WIDTH)
    start = tl.load(starts_ptr + bin)
    acc = tl.zeros((WIDTH,), dtype=tl.float32)
    for i in range(tl.load(counts_ptr + bin)):
        acc += tl.load(x_ptr + (start + i) * WIDTH + cols)
    tl.store(out_ptr + bin * WIDTH + cols, acc)


def bins(ids, x, out):
    counts = torch.zeros(out.shape[0], dtype=torch.int32, device=ids.device)
    starts = torch.empty_like(counts)
    histogram_kernel[(triton.cdiv(ids.numel(), 16),)](ids, counts, ids.numel(), 16)
    starts_kernel[(1,)](counts, starts, out.shape[0])
    bins_kernel[(out.shape[0],)](starts, counts, x, out, x.shape[1])


@triton.jit
def positive_kernel(x_ptr, counts_ptr, WIDTH: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH))
    tl.store(counts_ptr + tl.program_id(0), tl.sum((x > 0).to(tl.int32), 0))


def bins_of_floats(x, out):
    counts = torch.zeros(out.shape[0], dtype=torch.int32, device=x.device)
    starts = torch.zeros_like(counts)
    positive_kernel[(out.shape[0],)](x, counts, x.shape[1])
    starts_kernel[(1,)](counts, starts, out.shape[0])
    bins_kernel[(out.shape[0],)](starts, counts, x, out, x.shape[1])
