"""Two kernels: the score of every block written to memory, then the best 16 of each row read from there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

RUNG = 1
CLASS = "plain"
TUNE = {
    "BLOCK_M": [64, 128],
    "RUN": [4, 16, 64],  # blocks of keys for each program
    "ROWS": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2],
}
BLOCK = tl.constexpr(128)
TOP = tl.constexpr(16)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of fp32; what is below is no block at all


@triton.jit
def place(tile, cu_q_ptr, sequences, HKV: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr):
    """The sequence that a tile of rows (token, head) belongs to (`sequences` beyond all), and its number within."""
    at = tl.arange(0, SEQUENCES)
    start = tl.load(cu_q_ptr + at, mask=at < sequences, other=0)
    end = tl.load(cu_q_ptr + at + 1, mask=at < sequences, other=0)
    tiles = ((end - start) * HKV + (BLOCK_M - 1)) // BLOCK_M
    seq = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32))
    return seq, tile - tl.sum(tl.where(at < seq, tiles, 0))


@triton.jit
def score_kernel(
    iq_ptr, ik_ptr, cu_q_ptr, cu_k_ptr, score_ptr,
    rows, sequences, HKV: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    seq, tile = place(tl.program_id(1), cu_q_ptr, sequences, HKV, SEQUENCES, BLOCK_M)
    if seq >= sequences:
        return
    q_start = tl.load(cu_q_ptr + seq)
    q_len = tl.load(cu_q_ptr + seq + 1) - q_start
    k_start = tl.load(cu_k_ptr + seq)
    k_len = tl.load(cu_k_ptr + seq + 1) - k_start
    # Own blocks need no score, and any block before is visible whole: tokens have not to be masked.
    last = min(tile * BLOCK_M + BLOCK_M - 1, q_len * HKV - 1) // HKV
    count = (k_len - q_len + last) >> 7
    first = tl.program_id(0) * RUN
    if first >= count:
        return
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < q_len * HKV
    d = tl.arange(0, 128)
    q = tl.load(
        iq_ptr + (q_start * HKV + row).to(tl.int64)[:, None] * 128 + d[None, :], mask=inside[:, None], other=0.0
    )
    keys = ik_ptr + (k_start + first * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None] * 128 + d[None, :]
    # By block, then by row: the second kernel reads whole lines.
    to = score_ptr + first.to(tl.int64) * rows + q_start * HKV + row
    for _ in range(first, min(first + RUN, count)):
        score = tl.max(tl.dot(q, tl.load(keys).T), axis=1)
        tl.store(to, tl.where(score > LOWEST, score, LOWEST), mask=inside)
        keys += BLOCK * 128
        to += rows


@triton.jit
def insert(values, blocks, score, block):
    """Put a block in the place of the lowest of a row's 16, if it is above that; of equals the latest goes."""
    low = tl.min(values, axis=1)
    latest = tl.max(tl.where(values == low[:, None], blocks, -1 - TOP), axis=1)
    put = (blocks == latest[:, None]) & (score > low)[:, None]
    return tl.where(put, score[:, None], values), tl.where(put, block, blocks)


@triton.jit
def top_kernel(
    score_ptr, cu_q_ptr, cu_k_ptr, ids_ptr,
    rows, sequences, T, HKV: tl.constexpr, SEQUENCES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    seq, tile = place(tl.program_id(0), cu_q_ptr, sequences, HKV, SEQUENCES, ROWS)
    if seq >= sequences:
        return
    q_start = tl.load(cu_q_ptr + seq)
    q_len = tl.load(cu_q_ptr + seq + 1) - q_start
    k_len = tl.load(cu_k_ptr + seq + 1) - tl.load(cu_k_ptr + seq)
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = row < q_len * HKV
    token = row // HKV
    own = (k_len - q_len + token) >> 7
    slot = tl.arange(0, TOP)
    # The own block stands first and above all; what is free has numbers that fall, so that the first is filled first.
    forced = (slot == 0)[None, :] & (own >= 0)[:, None]
    values = tl.where(forced, float("inf"), tl.full((ROWS, TOP), float("-inf"), tl.float32))
    blocks = tl.where(forced, own[:, None], -1 - slot[None, :])
    last = min(tile * ROWS + ROWS - 1, q_len * HKV - 1) // HKV
    scores = score_ptr + q_start * HKV + row
    for j in range(0, (k_len - q_len + last) >> 7):
        values, blocks = insert(values, blocks, tl.load(scores, mask=inside & (own > j), other=float("-inf")), j)
        scores += rows
    to = ((row % HKV) * T + q_start + token).to(tl.int64)[:, None] * TOP + slot[None, :]
    tl.store(ids_ptr + to, tl.maximum(blocks, -1), mask=inside[:, None])


def msa_index(iq, ik, cu_q, cu_k, ids, *, BLOCK_M=64, RUN=16, ROWS=32, NUM_WARPS=4, NUM_STAGES=1):
    check(iq, ik, cu_q, cu_k, ids)
    T, HKV, _ = iq.shape
    S = ik.shape[0]
    rows, sequences = T * HKV, cu_q.shape[0] - 1
    shared = {"HKV": HKV, "SEQUENCES": triton.next_power_of_2(sequences)}
    score = torch.empty((triton.cdiv(S, 128), rows), dtype=torch.float32, device=iq.device)
    # Lengths stay on the device: as many tiles as there can be, each sequence's last one partial.
    score_kernel[(triton.cdiv(S, 128 * RUN), triton.cdiv(rows, BLOCK_M) + sequences - 1)](
        iq, ik, cu_q, cu_k, score, rows, sequences, **shared, BLOCK_M=BLOCK_M, RUN=RUN,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    top_kernel[(triton.cdiv(rows, ROWS) + sequences - 1,)](
        score, cu_q, cu_k, ids, rows, sequences, T, **shared, ROWS=ROWS, num_warps=ROWS // 32
    )  # fmt: skip


def check(iq, ik, cu_q, cu_k, ids):
    """ValueError names the tensor that this kernel does not take. Looks at no value."""
    bf16, int32 = torch.bfloat16, torch.int32
    for name, tensor, dims, dtype in (
        ("iq", iq, 3, bf16), ("ik", ik, 2, bf16), ("cu_q", cu_q, 1, int32), ("cu_k", cu_k, 1, int32),
        ("ids", ids, 3, int32),
    ):  # fmt: skip
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: its dtype is {tensor.dtype}; msa_index takes {dtype}")
        if tensor.ndim != dims:
            raise ValueError(f"{name}: it has {tensor.ndim} dimensions; msa_index takes {dims}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: it is not contiguous; pass {name}.contiguous()")
        if tensor.data_ptr() % 16:
            raise ValueError(f"{name}: its base is not aligned to 16 bytes; pass {name}.clone()")
    tokens, heads, _ = iq.shape
    for name, tensor, shape in (
        ("iq", iq, (tokens, heads, 128)), ("ik", ik, (ik.shape[0], 128)), ("cu_k", cu_k, tuple(cu_q.shape)),
        ("ids", ids, (heads, tokens, 16)),
    ):  # fmt: skip
        if tuple(tensor.shape) != shape or not tensor.numel():
            raise ValueError(f"{name}: its sizes are {list(tensor.shape)}; msa_index takes {list(shape)}, none 0")
    if cu_q.shape[0] < 2:
        raise ValueError("cu_q: it has no sequence; msa_index takes one offset more than there are sequences")
