"""Q-outer: one query and KV head a program; the heads of the group share each block that the query lists."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

RUNG = 1
CLASS = "q-outer"
TUNE = {
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [2, 4, 8],
    "NUM_STAGES": [1, 2, 3, 4],
}

BLOCK = tl.constexpr(128)
HEAD_DIM = tl.constexpr(128)
TOP_K = tl.constexpr(16)
# 1 / sqrt(128) for the base-2 exponential.
SCALE = tl.constexpr(0.08838834764831845 * 1.4426950408889634)


@triton.jit
def q_outer_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, cu_q_ptr, cu_k_ptr, out_ptr,
    T, HKV, OFFSETS,
    G: tl.constexpr, ROWS: tl.constexpr, SEARCH: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1)
    # The last sequence that begins at or before this query; empty ones begin where the next does.
    sequence = 0
    for bit in tl.static_range(SEARCH):
        ahead = sequence + (1 << (SEARCH - 1 - bit))
        begins = tl.load(cu_q_ptr + tl.minimum(ahead, OFFSETS - 1))
        sequence = tl.where((ahead < OFFSETS) & (begins <= token), ahead, sequence)
    start = tl.load(cu_k_ptr + sequence)
    length = tl.load(cu_k_ptr + sequence + 1) - start
    position = length - tl.load(cu_q_ptr + sequence + 1) + token
    # Arithmetic shift: negative where the sequence has fewer keys than queries, and then nothing is visible.
    own = position >> 7

    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, HEAD_DIM)
    at_q = (token.to(tl.int64) * HKV + head) * G * HEAD_DIM + rows[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=rows[:, None] < G, other=0.0)

    list_ptr = ids_ptr + (head.to(tl.int64) * T + token) * TOP_K
    slots = tl.arange(0, TOP_K)
    listed = tl.load(list_ptr + slots)
    count = tl.max(tl.where((listed >= 0) & (listed <= own), slots + 1, 0), axis=0)

    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, HEAD_DIM), tl.float32)
    for step in range(count * PARTS):
        block = tl.load(list_ptr + step // PARTS)
        good = (block >= 0) & (block <= own)
        inside = block * BLOCK + step % PARTS * BLOCK_N + tl.arange(0, BLOCK_N)
        seen = good & (inside <= position)
        at = ((start + inside).to(tl.int64) * HKV + head) * HEAD_DIM
        # What is not visible is not read: neither a NaN there nor an address beyond the end can do harm.
        k = tl.load(k_ptr + at[None, :] + dims[:, None], mask=seen[None, :], other=0.0)
        v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(q, k) * SCALE, float("-inf"))
        larger = tl.maximum(highest, tl.max(scores, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(highest - shift)
        total = total * shrink + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(tl.bfloat16), v, acc * shrink[:, None])
        highest = larger

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=rows[:, None] < G)


def msa_attend(q, k, v, ids, cu_q, cu_k, out, *, BLOCK_N=128, NUM_WARPS=4, NUM_STAGES=2):
    tokens, heads_kv, group = check(q, k, v, ids, cu_q, cu_k, out)
    q_outer_kernel[(tokens, heads_kv)](
        q, k, v, ids, cu_q, cu_k, out, tokens, heads_kv, cu_q.shape[0],
        G=group, ROWS=16, SEARCH=(cu_q.shape[0] - 1).bit_length(), BLOCK_N=BLOCK_N, PARTS=128 // BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip


def check(q, k, v, ids, cu_q, cu_k, out):
    """(T, HKV, HQ / HKV); ValueError names the tensor that this kernel does not take. Looks at no value."""
    for name, tensor, dims, dtype in (
        ("q", q, 3, torch.bfloat16), ("k", k, 3, torch.bfloat16), ("v", v, 3, torch.bfloat16),
        ("ids", ids, 3, torch.int32), ("cu_q", cu_q, 1, torch.int32), ("cu_k", cu_k, 1, torch.int32),
        ("out", out, 3, torch.bfloat16),
    ):  # fmt: skip
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: its dtype is {tensor.dtype}; msa_attend takes {dtype}")
        if tensor.ndim != dims:
            raise ValueError(f"{name}: it has {tensor.ndim} dimensions; msa_attend takes {dims}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: it is not contiguous; pass {name}.contiguous()")
        if tensor.data_ptr() % 16:
            raise ValueError(f"{name}: its base is not aligned to 16 bytes; pass {name}.clone()")
    tokens, heads_q, _ = q.shape
    keys, heads_kv, _ = k.shape
    for name, tensor in (("q", q), ("k", k)):
        if tensor.shape[2] != 128:
            raise ValueError(f"{name}: its head dimension is {tensor.shape[2]}; msa_attend takes 128")
    if heads_q not in (8 * heads_kv, 16 * heads_kv):
        raise ValueError(f"q: {heads_q} query heads over {heads_kv} KV heads; msa_attend takes 8 or 16 for each")
    for name, tensor, shape in (
        ("v", v, (keys, heads_kv, 128)), ("ids", ids, (heads_kv, tokens, 16)), ("cu_k", cu_k, tuple(cu_q.shape)),
        ("out", out, (tokens, heads_q, 128)),
    ):  # fmt: skip
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: its sizes are {list(tensor.shape)}; msa_attend takes {list(shape)}")
    if cu_q.shape[0] < 2:
        raise ValueError("cu_q: it has no sequence; msa_attend takes one offset more than there are sequences")
    return tokens, heads_kv, heads_q // heads_kv
