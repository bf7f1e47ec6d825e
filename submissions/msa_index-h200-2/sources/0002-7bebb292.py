"""One product for all heads: row maxima go into a running top 16 in registers, and no score is ever written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 2
CLASS = "fused"
TUNE = {
    "BLOCK_M": [64, 128, 256],
    "FILL": [1, 2, 4, 8],  # programs for each SM to aim at, by splitting the context
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3, 4],
}
BLOCK = tl.constexpr(128)
TOP = tl.constexpr(16)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of fp32; what is below is no block at all
LEAST_KEYS = 1024  # of a split
MERGED = 1024  # candidates in a program of the merge


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
def insert(values, blocks, score, block):
    """Put a block in the place of the lowest of a row's 16, if it is above that; of equals the latest goes."""
    low = tl.min(values, axis=1)
    latest = tl.max(tl.where(values == low[:, None], blocks, -1 - TOP), axis=1)
    put = (blocks == latest[:, None]) & (score > low)[:, None]
    return tl.where(put, score[:, None], values), tl.where(put, block, blocks)


@triton.jit
def score_kernel(
    iq_desc, ik_desc, cu_q_ptr, cu_k_ptr, values_ptr, blocks_ptr,
    T, sequences, splits,
    HKV: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    # The splits of a tile are neighbours. The last tiles see most keys and come first.
    split = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    seq, tile = place(tile, cu_q_ptr, sequences, HKV, SEQUENCES, BLOCK_M)
    if seq >= sequences:
        return
    q_start = tl.load(cu_q_ptr + seq)
    q_len = tl.load(cu_q_ptr + seq + 1) - q_start
    k_start = tl.load(cu_k_ptr + seq)
    k_len = tl.load(cu_k_ptr + seq + 1) - k_start
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    token = row // HKV
    own = (k_len - q_len + token) >> 7
    slot = tl.arange(0, TOP)
    # The own block stands first and above all; what is free has numbers that fall, so that the first is filled first.
    forced = (slot == 0)[None, :] & ((own >= 0) & (split == 0))[:, None]
    values = tl.where(forced, float("inf"), tl.full((BLOCK_M, TOP), float("-inf"), tl.float32))
    blocks = tl.where(forced, own[:, None], -1 - slot[None, :])

    # Own blocks need no score, and any block before is visible whole: tokens have not to be masked.
    last = min(tile * BLOCK_M + BLOCK_M - 1, q_len * HKV - 1) // HKV
    count = max((k_len - q_len + last) >> 7, 0)
    share = tl.cdiv(count, splits)
    q = iq_desc.load([q_start * HKV + tile * BLOCK_M, 0])
    for j in range(split * share, min(split * share + share, count)):
        k = ik_desc.load([k_start + j * BLOCK, 0])
        score = tl.max(tl.dot(q, k.T), axis=1)
        score = tl.where(score > LOWEST, score, LOWEST)
        values, blocks = insert(values, blocks, tl.where(own > j, score, float("-inf")), j)

    inside = (row < q_len * HKV)[:, None]
    if SPLIT:
        to = ((split * T + q_start).to(tl.int64) * HKV + row)[:, None] * TOP + slot[None, :]
        tl.store(values_ptr + to, values, mask=inside)
        tl.store(blocks_ptr + to, blocks, mask=inside)
    else:
        to = ((row % HKV) * T + q_start + token).to(tl.int64)[:, None] * TOP + slot[None, :]
        tl.store(blocks_ptr + to, tl.maximum(blocks, -1), mask=inside)


@triton.jit
def merge_kernel(
    values_ptr, blocks_ptr, ids_ptr,
    rows, T, splits, HKV: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    of = tl.arange(0, SPLITS * TOP)
    here = (row[:, None] + (of // TOP)[None, :] * rows).to(tl.int64) * TOP + (of % TOP)[None, :]
    there = inside[:, None] & (of < splits * TOP)[None, :]
    values = tl.load(values_ptr + here, mask=there, other=float("-inf"))
    blocks = tl.load(blocks_ptr + here, mask=there, other=-1)
    # The own block is in by right, whatever infinities the others have; each round takes the best of what is left.
    values = tl.where(of[None, :] == 0, float("-inf"), values)
    own = tl.load(blocks_ptr + row.to(tl.int64) * TOP, mask=inside, other=-1)
    slot = tl.arange(0, TOP)
    ids = tl.where(slot[None, :] == 0, own[:, None], -1)
    for i in tl.static_range(1, TOP):
        high = tl.max(values, axis=1)
        block = tl.max(tl.where(values == high[:, None], blocks, -1), axis=1)
        block = tl.where(high > float("-inf"), block, -1)
        ids = tl.where(slot[None, :] == i, block[:, None], ids)
        values = tl.where(blocks == block[:, None], float("-inf"), values)
    to = ((row % HKV) * T + row // HKV).to(tl.int64)[:, None] * TOP + slot[None, :]
    tl.store(ids_ptr + to, tl.maximum(ids, -1), mask=inside[:, None])


def msa_index(iq, ik, cu_q, cu_k, ids, *, BLOCK_M=64, FILL=4, NUM_WARPS=4, NUM_STAGES=3):
    check(iq, ik, cu_q, cu_k, ids)
    T, HKV, _ = iq.shape
    S = ik.shape[0]
    rows, sequences = T * HKV, cu_q.shape[0] - 1
    # Lengths stay on the device: as many tiles as there can be, each sequence's last one partial.
    tiles = triton.cdiv(rows, BLOCK_M) + sequences - 1
    sms = torch.cuda.get_device_properties(iq.device).multi_processor_count
    splits = max(1, min(FILL * sms // tiles, S // LEAST_KEYS))
    values = blocks = ids
    if splits > 1:
        values = torch.empty((splits, rows, 16), dtype=torch.float32, device=iq.device)
        blocks = torch.empty((splits, rows, 16), dtype=torch.int32, device=iq.device)
    iq_desc = TensorDescriptor.from_tensor(iq.view(rows, 128), [BLOCK_M, 128])
    ik_desc = TensorDescriptor.from_tensor(ik, [128, 128])
    score_kernel[(splits, tiles)](
        iq_desc, ik_desc, cu_q, cu_k, values, blocks, T, sequences, splits,
        HKV=HKV, SEQUENCES=triton.next_power_of_2(sequences), BLOCK_M=BLOCK_M, SPLIT=splits > 1,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    if splits > 1:
        most = triton.next_power_of_2(splits)
        at_once = max(1, MERGED // (16 * most))
        merge_kernel[(triton.cdiv(rows, at_once),)](
            values, blocks, ids, rows, T, splits, HKV=HKV, SPLITS=most, ROWS=at_once, num_warps=1
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
