# MSA attention over selected blocks, prefill, for NVIDIA H100 SXM.
# Published by kopt 0.1.0 on 2026-11-27.
#
# Measured: 18.5 % of the roofline (geometric mean), 20 batches a shape,
# in fresh processes, after the best of 4 submissions was known.
#   8k-random            1484.6 us   18.1 %
#   8k-m3_like            895.0 us   30.1 %
#   128k-random          2339.6 us   11.5 %
#   128k-m3_like          899.1 us   29.9 %
#   128k-hot_block        672.3 us   40.0 %
#   128k-8x1-m3_like      169.5 us   19.9 %
#   128k-8x1-random       667.0 us    5.0 %
#
# torch 2.11.0+cu130, triton 3.6.0, evaluator 5, driver 580.159.04
# Run msa_attend-h100, submission 2 (70e0f3adfb883366); the .json beside it has all.
# SPDX-License-Identifier: Apache-2.0

"""Union tile: neighbouring queries share the union of their lists, each masked by its own list."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

CLASS = "union"

BLOCK = tl.constexpr(128)
HEAD_DIM = tl.constexpr(128)
TOP_K = tl.constexpr(16)
# 1 / sqrt(128) for the base-2 exponential.
SCALE = tl.constexpr(0.08838834764831845 * 1.4426950408889634)
# Of a list entry that names no visible block; greater than any row of k.
NOTHING = tl.constexpr(2**31 - 1)


@triton.jit
def locate(tokens, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH: tl.constexpr):
    """For each query the row of its sequence's first key, and its own position."""
    inside = tl.minimum(tokens, T - 1)
    # The last sequence that begins at or before the query; empty ones begin where the next does.
    sequence = inside * 0
    for bit in tl.static_range(SEARCH):
        ahead = sequence + (1 << (SEARCH - 1 - bit))
        begins = tl.load(cu_q_ptr + tl.minimum(ahead, OFFSETS - 1))
        sequence = tl.where((ahead < OFFSETS) & (begins <= inside), ahead, sequence)
    start = tl.load(cu_k_ptr + sequence)
    length = tl.load(cu_k_ptr + sequence + 1) - start
    return start, length - tl.load(cu_q_ptr + sequence + 1) + inside


@triton.jit
def twice(blocks, TILE: tl.constexpr):
    """Which entries of the lists, one after the other, a list has had before."""
    lists = tl.reshape(blocks, (TILE, TOP_K))
    slots = tl.arange(0, TOP_K)
    earlier = slots[None, None, :] < slots[None, :, None]
    same = earlier & (lists[:, :, None] == lists[:, None, :])
    return tl.reshape(tl.max(same.to(tl.int32), axis=2), (TILE * TOP_K,)) > 0


@triton.jit
def union_kernel(
    q_ptr, k_desc, v_desc, ids_ptr, cu_q_ptr, cu_k_ptr, out_ptr, odd_ptr,
    T, S, HKV, OFFSETS,
    G: tl.constexpr, TILE: tl.constexpr, SEARCH: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * TILE
    head = tl.program_id(1)
    rows = tl.arange(0, TILE * G)
    dims = tl.arange(0, HEAD_DIM)
    tokens = first + rows // G
    valid = tokens < T
    start, position = locate(tokens, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
    last = start + position

    # All lists of the tile, a block going by the row of k at which it begins: neighbours may be of other sequences.
    entry = tl.arange(0, TILE * TOP_K)
    lister = first + entry // TOP_K
    list_start, list_position = locate(lister, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
    ids = tl.load(ids_ptr + head.to(tl.int64) * T * TOP_K + first * TOP_K + entry, mask=lister < T, other=-1)
    # Arithmetic shift: negative where a sequence has fewer keys than queries, and then nothing is visible.
    named = (ids >= 0) & (ids <= (list_position >> 7))
    blocks = tl.where(named, list_start + ids * BLOCK, NOTHING)
    # Who lists it, a bit for each query. What a query lists twice counts once: bits are added.
    bits = tl.where(twice(blocks, TILE), 0, 1 << (entry // TOP_K))

    # The union in ascending order, without sorting: the smallest that is larger than the one before.
    count = 0
    block = tl.min(blocks, axis=0)
    while block < NOTHING:
        count += 1
        block = tl.min(tl.where(blocks > block, blocks, NOTHING), axis=0)

    at_q = ((tokens.to(tl.int64) * HKV + head) * G + rows % G)[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=valid[:, None], other=0.0)
    highest = tl.full((TILE * G,), float("-inf"), tl.float32)
    total = tl.zeros((TILE * G,), tl.float32)
    acc = tl.zeros((TILE * G, HEAD_DIM), tl.float32)
    block = tl.min(blocks, axis=0)
    # At least one, in which nothing counts where nothing is listed: a loop that may be skipped has its MMAs serialised.
    steps = tl.maximum(count, 1) * PARTS
    tl.assume(steps > 0)
    for step in range(steps):
        # A block is a box of rows in memory: one bulk copy, which reads zeros beyond the last row.
        row = tl.minimum(block, S) + step % PARTS * BLOCK_N
        keys = row + tl.arange(0, BLOCK_N)
        k = k_desc.load([row, head * HEAD_DIM])
        v = v_desc.load([row, head * HEAD_DIM])
        listers = tl.sum(tl.where(blocks == block, bits, 0), axis=0)
        member = (listers >> (rows // G)) & 1
        following = tl.min(tl.where(blocks > block, blocks, NOTHING), axis=0)
        block = tl.where(step % PARTS == PARTS - 1, following, block)
        # As a limit on the row of k, which costs one comparison an element.
        limit = tl.where(member > 0, last, -1)
        scores = tl.where(keys[None, :] <= limit[:, None], tl.dot(q, k.T) * SCALE, float("-inf"))
        larger = tl.maximum(highest, tl.max(scores, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(highest - shift)
        total = total * shrink + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(tl.bfloat16), v, acc * shrink[:, None])
        highest = larger

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=valid[:, None])
    # A NaN in v reaches all rows of the tile, as 0 * NaN: the next kernel does such a tile again, query by query.
    odd = tl.max((acc != acc).to(tl.int32), axis=1)
    tile = head * tl.num_programs(0) + tl.program_id(0)
    tl.store(odd_ptr + tile * TILE * G + rows, odd.to(tl.int8))


@triton.jit
def again_kernel(
    odd_ptr, q_ptr, k_ptr, v_ptr, ids_ptr, cu_q_ptr, cu_k_ptr, out_ptr,
    T, HKV, OFFSETS,
    G: tl.constexpr, TILE: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    """Tiles in which a NaN came out, query by query, reading nothing but what each of them sees."""
    head = tl.program_id(1)
    tile = head * tl.num_programs(0) + tl.program_id(0)
    odd = tl.load(odd_ptr + tile * TILE * G + tl.arange(0, TILE * G)).to(tl.int32)
    if tl.max(odd, axis=0) > 0:
        rows = tl.arange(0, 16)
        dims = tl.arange(0, HEAD_DIM)
        slots = tl.arange(0, TOP_K)
        for index in range(TILE):
            token = tl.program_id(0) * TILE + index
            start, position = locate(token, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
            own = position >> 7
            list_ptr = ids_ptr + (head.to(tl.int64) * T + tl.minimum(token, T - 1)) * TOP_K
            listed = tl.load(list_ptr + slots)
            count = tl.max(tl.where((listed >= 0) & (listed <= own), slots + 1, 0), axis=0)
            asked = (rows[:, None] < G) & (token < T)
            at_q = (token.to(tl.int64) * HKV + head) * G * HEAD_DIM + rows[:, None] * HEAD_DIM + dims[None, :]
            q = tl.load(q_ptr + at_q, mask=asked, other=0.0)
            highest = tl.full((16,), float("-inf"), tl.float32)
            total = tl.zeros((16,), tl.float32)
            acc = tl.zeros((16, HEAD_DIM), tl.float32)
            for step in range(count * 2):
                block = tl.load(list_ptr + step // 2)
                keys = block * BLOCK + step % 2 * 64 + tl.arange(0, 64)
                seen = (block >= 0) & (block <= own) & (keys <= position)
                at = ((start + keys).to(tl.int64) * HKV + head) * HEAD_DIM
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
            tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=asked)


def msa_attend(q, k, v, ids, cu_q, cu_k, out, *, ROWS=64, BLOCK_N=64, NUM_WARPS=4, NUM_STAGES=3):
    tokens, heads_kv, group = check(q, k, v, ids, cu_q, cu_k, out)
    tile = ROWS // group
    grid = (triton.cdiv(tokens, tile), heads_kv)
    search = (cu_q.shape[0] - 1).bit_length()
    odd = torch.empty((heads_kv, grid[0], ROWS), dtype=torch.int8, device=q.device)
    k_desc, v_desc = (TensorDescriptor.from_tensor(x.view(x.shape[0], -1), [BLOCK_N, 128]) for x in (k, v))
    union_kernel[grid](
        q, k_desc, v_desc, ids, cu_q, cu_k, out, odd, tokens, k.shape[0], heads_kv, cu_q.shape[0],
        G=group, TILE=tile, SEARCH=search, BLOCK_N=BLOCK_N, PARTS=128 // BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    again_kernel[grid](
        odd, q, k, v, ids, cu_q, cu_k, out, tokens, heads_kv, cu_q.shape[0], G=group, TILE=tile, SEARCH=search
    )


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
