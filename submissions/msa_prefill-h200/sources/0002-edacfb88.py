"""Union tile: no score in memory, neighbours share their lists' union.

Composed by `python -m kopt.msa.compose` from kernels/msa_index/fused.py,
kernels/msa_attend/union.py and optimizer/kopt/msa/dense.py.in: change those, not this file.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 2
CLASS = "union"
TUNE = {
    "INDEX_BLOCK_M": [64, 128, 256],
    "INDEX_FILL": [1, 2, 4, 8],
    "INDEX_NUM_WARPS": [4, 8],
    "INDEX_NUM_STAGES": [2, 3, 4],
    "ATTEND_ROWS": [32, 64, 128],
    "ATTEND_BLOCK_N": [32, 64, 128],
    "ATTEND_NUM_WARPS": [4, 8],
    "ATTEND_NUM_STAGES": [1, 2, 3],
    "DENSE_UP_TO": [0, 1024, 2048],
}


# -------------------- index

INDEX_BLOCK = tl.constexpr(128)
INDEX_TOP = tl.constexpr(16)
INDEX_LOWEST = tl.constexpr(-3.4028234663852886e38)  # of fp32; what is below is no block at all
INDEX_LEAST_KEYS = 1024  # of a split
INDEX_MERGED = 1024  # candidates in a program of the merge


@triton.jit
def index_place(tile, cu_q_ptr, sequences, HKV: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr):
    """The sequence that a tile of rows (token, head) belongs to (`sequences` beyond all), and its number within."""
    at = tl.arange(0, SEQUENCES)
    start = tl.load(cu_q_ptr + at, mask=at < sequences, other=0)
    end = tl.load(cu_q_ptr + at + 1, mask=at < sequences, other=0)
    tiles = ((end - start) * HKV + (BLOCK_M - 1)) // BLOCK_M
    seq = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32))
    return seq, tile - tl.sum(tl.where(at < seq, tiles, 0))


@triton.jit
def index_insert(values, blocks, score, block):
    """Put a block in the place of the lowest of a row's 16, if it is above that; of equals the latest goes."""
    low = tl.min(values, axis=1)
    latest = tl.max(tl.where(values == low[:, None], blocks, -1 - INDEX_TOP), axis=1)
    put = (blocks == latest[:, None]) & (score > low)[:, None]
    return tl.where(put, score[:, None], values), tl.where(put, block, blocks)


@triton.jit
def index_score_kernel(
    iq_desc, ik_desc, cu_q_ptr, cu_k_ptr, values_ptr, blocks_ptr,
    T, sequences, splits,
    HKV: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    # The splits of a tile are neighbours. The last tiles see most keys and come first.
    split = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    seq, tile = index_place(tile, cu_q_ptr, sequences, HKV, SEQUENCES, BLOCK_M)
    if seq >= sequences:
        return
    q_start = tl.load(cu_q_ptr + seq)
    q_len = tl.load(cu_q_ptr + seq + 1) - q_start
    k_start = tl.load(cu_k_ptr + seq)
    k_len = tl.load(cu_k_ptr + seq + 1) - k_start
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    token = row // HKV
    own = (k_len - q_len + token) >> 7
    slot = tl.arange(0, INDEX_TOP)
    # The own block stands first and above all; what is free has numbers that fall, so that the first is filled first.
    forced = (slot == 0)[None, :] & ((own >= 0) & (split == 0))[:, None]
    values = tl.where(forced, float("inf"), tl.full((BLOCK_M, INDEX_TOP), float("-inf"), tl.float32))
    blocks = tl.where(forced, own[:, None], -1 - slot[None, :])

    # Own blocks need no score, and any block before is visible whole: tokens have not to be masked.
    last = min(tile * BLOCK_M + BLOCK_M - 1, q_len * HKV - 1) // HKV
    count = max((k_len - q_len + last) >> 7, 0)
    share = tl.cdiv(count, splits)
    q = iq_desc.load([q_start * HKV + tile * BLOCK_M, 0])
    for j in range(split * share, min(split * share + share, count)):
        k = ik_desc.load([k_start + j * INDEX_BLOCK, 0])
        score = tl.max(tl.dot(q, k.T), axis=1)
        score = tl.where(score > INDEX_LOWEST, score, INDEX_LOWEST)
        values, blocks = index_insert(values, blocks, tl.where(own > j, score, float("-inf")), j)

    inside = (row < q_len * HKV)[:, None]
    if SPLIT:
        to = ((split * T + q_start).to(tl.int64) * HKV + row)[:, None] * INDEX_TOP + slot[None, :]
        tl.store(values_ptr + to, values, mask=inside)
        tl.store(blocks_ptr + to, blocks, mask=inside)
    else:
        to = ((row % HKV) * T + q_start + token).to(tl.int64)[:, None] * INDEX_TOP + slot[None, :]
        tl.store(blocks_ptr + to, tl.maximum(blocks, -1), mask=inside)


@triton.jit
def index_merge_kernel(
    values_ptr, blocks_ptr, ids_ptr,
    rows, T, splits, HKV: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    of = tl.arange(0, SPLITS * INDEX_TOP)
    here = (row[:, None] + (of // INDEX_TOP)[None, :] * rows).to(tl.int64) * INDEX_TOP + (of % INDEX_TOP)[None, :]
    there = inside[:, None] & (of < splits * INDEX_TOP)[None, :]
    values = tl.load(values_ptr + here, mask=there, other=float("-inf"))
    blocks = tl.load(blocks_ptr + here, mask=there, other=-1)
    # The own block is in by right, whatever infinities the others have; each round takes the best of what is left.
    values = tl.where(of[None, :] == 0, float("-inf"), values)
    own = tl.load(blocks_ptr + row.to(tl.int64) * INDEX_TOP, mask=inside, other=-1)
    slot = tl.arange(0, INDEX_TOP)
    ids = tl.where(slot[None, :] == 0, own[:, None], -1)
    for i in tl.static_range(1, INDEX_TOP):
        high = tl.max(values, axis=1)
        block = tl.max(tl.where(values == high[:, None], blocks, -1), axis=1)
        block = tl.where(high > float("-inf"), block, -1)
        ids = tl.where(slot[None, :] == i, block[:, None], ids)
        values = tl.where(blocks == block[:, None], float("-inf"), values)
    to = ((row % HKV) * T + row // HKV).to(tl.int64)[:, None] * INDEX_TOP + slot[None, :]
    tl.store(ids_ptr + to, tl.maximum(ids, -1), mask=inside[:, None])


def index_msa_index(iq, ik, cu_q, cu_k, ids, *, BLOCK_M=64, FILL=4, NUM_WARPS=4, NUM_STAGES=3):
    index_check(iq, ik, cu_q, cu_k, ids)
    T, HKV, _ = iq.shape
    S = ik.shape[0]
    rows, sequences = T * HKV, cu_q.shape[0] - 1
    # Lengths stay on the device: as many tiles as there can be, each sequence's last one partial.
    tiles = triton.cdiv(rows, BLOCK_M) + sequences - 1
    sms = torch.cuda.get_device_properties(iq.device).multi_processor_count
    splits = max(1, min(FILL * sms // tiles, S // INDEX_LEAST_KEYS))
    values = blocks = ids
    if splits > 1:
        values = torch.empty((splits, rows, 16), dtype=torch.float32, device=iq.device)
        blocks = torch.empty((splits, rows, 16), dtype=torch.int32, device=iq.device)
    iq_desc = TensorDescriptor.from_tensor(iq.view(rows, 128), [BLOCK_M, 128])
    ik_desc = TensorDescriptor.from_tensor(ik, [128, 128])
    index_score_kernel[(splits, tiles)](
        iq_desc, ik_desc, cu_q, cu_k, values, blocks, T, sequences, splits,
        HKV=HKV, SEQUENCES=triton.next_power_of_2(sequences), BLOCK_M=BLOCK_M, SPLIT=splits > 1,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    if splits > 1:
        most = triton.next_power_of_2(splits)
        at_once = max(1, INDEX_MERGED // (16 * most))
        index_merge_kernel[(triton.cdiv(rows, at_once),)](
            values, blocks, ids, rows, T, splits, HKV=HKV, SPLITS=most, ROWS=at_once, num_warps=1
        )  # fmt: skip


def index_check(iq, ik, cu_q, cu_k, ids):
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


# -------------------- attend

ATTEND_BLOCK = tl.constexpr(128)
ATTEND_HEAD_DIM = tl.constexpr(128)
ATTEND_TOP_K = tl.constexpr(16)
# 1 / sqrt(128) for the base-2 exponential.
ATTEND_SCALE = tl.constexpr(0.08838834764831845 * 1.4426950408889634)
# Of a list entry that names no visible block; greater than any row of k.
ATTEND_NOTHING = tl.constexpr(2**31 - 1)


@triton.jit
def attend_locate(tokens, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH: tl.constexpr):
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
def attend_twice(blocks, TILE: tl.constexpr):
    """Which entries of the lists, one after the other, a list has had before."""
    lists = tl.reshape(blocks, (TILE, ATTEND_TOP_K))
    slots = tl.arange(0, ATTEND_TOP_K)
    earlier = slots[None, None, :] < slots[None, :, None]
    same = earlier & (lists[:, :, None] == lists[:, None, :])
    return tl.reshape(tl.max(same.to(tl.int32), axis=2), (TILE * ATTEND_TOP_K,)) > 0


@triton.jit
def attend_union_kernel(
    q_ptr, k_desc, v_desc, ids_ptr, cu_q_ptr, cu_k_ptr, out_ptr, odd_ptr,
    T, S, HKV, OFFSETS,
    G: tl.constexpr, TILE: tl.constexpr, SEARCH: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * TILE
    head = tl.program_id(1)
    rows = tl.arange(0, TILE * G)
    dims = tl.arange(0, ATTEND_HEAD_DIM)
    tokens = first + rows // G
    valid = tokens < T
    start, position = attend_locate(tokens, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
    last = start + position

    # All lists of the tile, a block going by the row of k at which it begins: neighbours may be of other sequences.
    entry = tl.arange(0, TILE * ATTEND_TOP_K)
    lister = first + entry // ATTEND_TOP_K
    list_start, list_position = attend_locate(lister, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
    ids = tl.load(ids_ptr + head.to(tl.int64) * T * ATTEND_TOP_K + first * ATTEND_TOP_K + entry, mask=lister < T, other=-1)
    # Arithmetic shift: negative where a sequence has fewer keys than queries, and then nothing is visible.
    named = (ids >= 0) & (ids <= (list_position >> 7))
    blocks = tl.where(named, list_start + ids * ATTEND_BLOCK, ATTEND_NOTHING)
    # Who lists it, a bit for each query. What a query lists twice counts once: bits are added.
    bits = tl.where(attend_twice(blocks, TILE), 0, 1 << (entry // ATTEND_TOP_K))

    # The union in ascending order, without sorting: the smallest that is larger than the one before.
    count = 0
    block = tl.min(blocks, axis=0)
    while block < ATTEND_NOTHING:
        count += 1
        block = tl.min(tl.where(blocks > block, blocks, ATTEND_NOTHING), axis=0)

    at_q = ((tokens.to(tl.int64) * HKV + head) * G + rows % G)[:, None] * ATTEND_HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=valid[:, None], other=0.0)
    highest = tl.full((TILE * G,), float("-inf"), tl.float32)
    total = tl.zeros((TILE * G,), tl.float32)
    acc = tl.zeros((TILE * G, ATTEND_HEAD_DIM), tl.float32)
    block = tl.min(blocks, axis=0)
    # At least one, in which nothing counts where nothing is listed: a loop that may be skipped has its MMAs serialised.
    steps = tl.maximum(count, 1) * PARTS
    tl.assume(steps > 0)
    for step in range(steps):
        # A block is a box of rows in memory: one bulk copy, which reads zeros beyond the last row.
        row = tl.minimum(block, S) + step % PARTS * BLOCK_N
        keys = row + tl.arange(0, BLOCK_N)
        k = k_desc.load([row, head * ATTEND_HEAD_DIM])
        v = v_desc.load([row, head * ATTEND_HEAD_DIM])
        listers = tl.sum(tl.where(blocks == block, bits, 0), axis=0)
        member = (listers >> (rows // G)) & 1
        following = tl.min(tl.where(blocks > block, blocks, ATTEND_NOTHING), axis=0)
        block = tl.where(step % PARTS == PARTS - 1, following, block)
        # As a limit on the row of k, which costs one comparison an element.
        limit = tl.where(member > 0, last, -1)
        scores = tl.where(keys[None, :] <= limit[:, None], tl.dot(q, k.T) * ATTEND_SCALE, float("-inf"))
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
def attend_again_kernel(
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
        dims = tl.arange(0, ATTEND_HEAD_DIM)
        slots = tl.arange(0, ATTEND_TOP_K)
        for index in range(TILE):
            token = tl.program_id(0) * TILE + index
            start, position = attend_locate(token, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
            own = position >> 7
            list_ptr = ids_ptr + (head.to(tl.int64) * T + tl.minimum(token, T - 1)) * ATTEND_TOP_K
            listed = tl.load(list_ptr + slots)
            count = tl.max(tl.where((listed >= 0) & (listed <= own), slots + 1, 0), axis=0)
            asked = (rows[:, None] < G) & (token < T)
            at_q = (token.to(tl.int64) * HKV + head) * G * ATTEND_HEAD_DIM + rows[:, None] * ATTEND_HEAD_DIM + dims[None, :]
            q = tl.load(q_ptr + at_q, mask=asked, other=0.0)
            highest = tl.full((16,), float("-inf"), tl.float32)
            total = tl.zeros((16,), tl.float32)
            acc = tl.zeros((16, ATTEND_HEAD_DIM), tl.float32)
            for step in range(count * 2):
                block = tl.load(list_ptr + step // 2)
                keys = block * ATTEND_BLOCK + step % 2 * 64 + tl.arange(0, 64)
                seen = (block >= 0) & (block <= own) & (keys <= position)
                at = ((start + keys).to(tl.int64) * HKV + head) * ATTEND_HEAD_DIM
                k = tl.load(k_ptr + at[None, :] + dims[:, None], mask=seen[None, :], other=0.0)
                v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=seen[:, None], other=0.0)
                scores = tl.where(seen[None, :], tl.dot(q, k) * ATTEND_SCALE, float("-inf"))
                larger = tl.maximum(highest, tl.max(scores, axis=1))
                shift = tl.where(larger == float("-inf"), 0.0, larger)
                weights = tl.exp2(scores - shift[:, None])
                shrink = tl.exp2(highest - shift)
                total = total * shrink + tl.sum(weights, axis=1)
                acc = tl.dot(weights.to(tl.bfloat16), v, acc * shrink[:, None])
                highest = larger
            acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
            tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=asked)


def attend_msa_attend(q, k, v, ids, cu_q, cu_k, out, *, ROWS=64, BLOCK_N=64, NUM_WARPS=4, NUM_STAGES=3):
    tokens, heads_kv, group = attend_check(q, k, v, ids, cu_q, cu_k, out)
    tile = ROWS // group
    grid = (triton.cdiv(tokens, tile), heads_kv)
    search = (cu_q.shape[0] - 1).bit_length()
    odd = torch.empty((heads_kv, grid[0], ROWS), dtype=torch.int8, device=q.device)
    k_desc, v_desc = (TensorDescriptor.from_tensor(x.view(x.shape[0], -1), [BLOCK_N, 128]) for x in (k, v))
    attend_union_kernel[grid](
        q, k_desc, v_desc, ids, cu_q, cu_k, out, odd, tokens, k.shape[0], heads_kv, cu_q.shape[0],
        G=group, TILE=tile, SEARCH=search, BLOCK_N=BLOCK_N, PARTS=128 // BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    attend_again_kernel[grid](
        odd, q, k, v, ids, cu_q, cu_k, out, tokens, heads_kv, cu_q.shape[0], G=group, TILE=tile, SEARCH=search
    )


def attend_check(q, k, v, ids, cu_q, cu_k, out):
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


# -------------------- dense

DENSE_ROWS = 128  # of a tile: ROWS // G queries, G heads each


@triton.jit
def dense_place(tile, cu_q_ptr, cu_k_ptr, sequences, TILE: tl.constexpr, SEQUENCES: tl.constexpr):
    """Of a tile: whether there is one, its number in its sequence, and the sequence's queries and keys (start, length).

    Tiles do not straddle sequences: each sequence's last one may be cut short, and some programs have none.
    """
    each = tl.arange(0, SEQUENCES)
    first = tl.load(cu_q_ptr + each, mask=each < sequences, other=0)
    end = tl.load(cu_q_ptr + each + 1, mask=each < sequences, other=0)
    tiles = (end - first + TILE - 1) // TILE
    sequence = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    there = sequence < sequences
    tile -= tl.sum(tl.where(each < sequence, tiles, 0), 0)
    q_start = tl.load(cu_q_ptr + sequence, mask=there, other=0)
    len_q = tl.load(cu_q_ptr + sequence + 1, mask=there, other=0) - q_start
    k_start = tl.load(cu_k_ptr + sequence, mask=there, other=0)
    len_k = tl.load(cu_k_ptr + sequence + 1, mask=there, other=0) - k_start
    return there, tile, q_start, len_q, k_start, len_k


@triton.jit
def dense_kernel(
    q_ptr, k_ptr, v_ptr, cu_q_ptr, cu_k_ptr, out_ptr, odd_ptr, sequences, HKV,
    G: tl.constexpr, TILE: tl.constexpr, BLOCK_N: tl.constexpr, SEQUENCES: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    there, tile, q_start, len_q, k_start, len_k = dense_place(
        tl.program_id(0), cu_q_ptr, cu_k_ptr, sequences, TILE, SEQUENCES
    )
    rows = tl.arange(0, TILE * G)
    odd_ptrs = odd_ptr + (head * tl.num_programs(0) + tl.program_id(0)) * TILE * G + rows
    if not there:
        tl.store(odd_ptrs, tl.zeros((TILE * G,), tl.int8))
        return
    d = tl.arange(0, 128)
    query = tile * TILE + rows // G
    position = len_k - len_q + query
    live = query < len_q
    at_q = ((q_start + query).to(tl.int64) * HKV * G + head * G + rows % G)[:, None] * 128 + d[None, :]
    q = tl.load(q_ptr + at_q, mask=live[:, None], other=0.0)
    highest = tl.full((TILE * G,), float("-inf"), tl.float32)
    total = tl.zeros((TILE * G,), tl.float32)
    acc = tl.zeros((TILE * G, 128), tl.float32)
    last = len_k - len_q + tl.minimum(tile * TILE + TILE, len_q) - 1
    for start in range(0, last + 1, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        at_k = ((k_start + key).to(tl.int64) * HKV + head) * 128
        k = tl.load(k_ptr + at_k[:, None] + d[None, :], mask=(key < len_k)[:, None], other=0.0)
        v = tl.load(v_ptr + at_k[:, None] + d[None, :], mask=(key < len_k)[:, None], other=0.0)
        score = tl.dot(q, k.T) * SCALE
        score = tl.where(key[None, :] <= position[:, None], score, float("-inf"))
        larger = tl.maximum(highest, tl.max(score, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        weight = tl.exp2(score - shift[:, None])
        shrink = tl.exp2(highest - shift)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(tl.bfloat16), v, acc * shrink[:, None])
        highest = larger
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=live[:, None])
    # A weight of 0 makes no NaN harmless, and a key that one query of a tile sees is none of another's.
    tl.store(odd_ptrs, tl.max((acc != acc).to(tl.int32), 1).to(tl.int8))


@triton.jit
def dense_again_kernel(
    q_ptr, k_ptr, v_ptr, cu_q_ptr, cu_k_ptr, out_ptr, odd_ptr, sequences, HKV,
    G: tl.constexpr, TILE: tl.constexpr, SEQUENCES: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Tiles in which a NaN came out, key by key."""
    head = tl.program_id(1)
    rows = tl.arange(0, TILE * G)
    odd = tl.load(odd_ptr + (head * tl.num_programs(0) + tl.program_id(0)) * TILE * G + rows)
    if tl.max(odd.to(tl.int32), 0) > 0:
        there, tile, q_start, len_q, k_start, len_k = dense_place(
            tl.program_id(0), cu_q_ptr, cu_k_ptr, sequences, TILE, SEQUENCES
        )
        d = tl.arange(0, 128)
        query = tile * TILE + rows // G
        position = len_k - len_q + query
        live = query < len_q
        at_q = ((q_start + query).to(tl.int64) * HKV * G + head * G + rows % G)[:, None] * 128 + d[None, :]
        q = tl.load(q_ptr + at_q, mask=live[:, None], other=0.0).to(tl.float32)
        highest = tl.full((TILE * G,), float("-inf"), tl.float32)
        total = tl.zeros((TILE * G,), tl.float32)
        acc = tl.zeros((TILE * G, 128), tl.float32)
        for key in range(0, len_k - len_q + tl.minimum(tile * TILE + TILE, len_q)):
            at = ((k_start + key).to(tl.int64) * HKV + head) * 128 + d
            score = tl.sum(q * tl.load(k_ptr + at).to(tl.float32)[None, :], 1) * SCALE
            seen = key <= position
            larger = tl.where(seen, tl.maximum(highest, score), highest)
            shift = tl.where(larger == float("-inf"), 0.0, larger)
            weight = tl.where(seen, tl.exp2(score - shift), 0.0)
            shrink = tl.exp2(highest - shift)
            total = total * shrink + weight
            more = weight[:, None] * tl.load(v_ptr + at).to(tl.float32)[None, :]
            acc = acc * shrink[:, None] + tl.where(seen[:, None], more, 0.0)
            highest = larger
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=live[:, None])


def dense_dense(q, k, v, cu_q, cu_k, out):
    """Of batches whose sequences are short: equal to attention over 16 blocks up to 2,048 keys."""
    T, HQ, _ = q.shape
    HKV, sequences = k.shape[1], cu_q.shape[0] - 1
    tile = DENSE_ROWS // (HQ // HKV)
    grid = (triton.cdiv(T, tile) + sequences - 1, HKV)
    odd = torch.empty((HKV, grid[0], DENSE_ROWS), dtype=torch.int8, device=q.device)
    common = {"G": HQ // HKV, "TILE": tile, "SEQUENCES": triton.next_power_of_2(sequences), "num_warps": 8}
    common["SCALE"] = 128**-0.5 * 1.4426950408889634
    dense_kernel[grid](q, k, v, cu_q, cu_k, out, odd, sequences, HKV, BLOCK_N=64, num_stages=2, **common)
    dense_again_kernel[grid](q, k, v, cu_q, cu_k, out, odd, sequences, HKV, **common)


def dense_check(q, k, v, iq, ik, cu_q, cu_k, out):
    """ValueError names the tensor that this kernel does not take. Looks at no value."""
    bf16, int32 = torch.bfloat16, torch.int32
    for name, tensor, dims, dtype in (
        ("q", q, 3, bf16), ("k", k, 3, bf16), ("v", v, 3, bf16), ("iq", iq, 3, bf16), ("ik", ik, 2, bf16),
        ("cu_q", cu_q, 1, int32), ("cu_k", cu_k, 1, int32), ("out", out, 3, bf16),
    ):  # fmt: skip
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: its dtype is {tensor.dtype}; msa_prefill takes {dtype}")
        if tensor.ndim != dims:
            raise ValueError(f"{name}: it has {tensor.ndim} dimensions; msa_prefill takes {dims}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: it is not contiguous; pass {name}.contiguous()")
        if tensor.data_ptr() % 16:
            raise ValueError(f"{name}: its base is not aligned to 16 bytes; pass {name}.clone()")
    tokens, heads_q, _ = q.shape
    keys, heads_kv, _ = k.shape
    for name, tensor, shape in (
        ("q", q, (tokens, heads_q, 128)), ("k", k, (keys, heads_kv, 128)), ("v", v, (keys, heads_kv, 128)),
        ("iq", iq, (tokens, heads_kv, 128)), ("ik", ik, (keys, 128)), ("cu_k", cu_k, tuple(cu_q.shape)),
        ("out", out, (tokens, heads_q, 128)),
    ):  # fmt: skip
        if tuple(tensor.shape) != shape or not tensor.numel():
            raise ValueError(f"{name}: its sizes are {list(tensor.shape)}; msa_prefill takes {list(shape)}, none 0")
    if heads_q not in (8 * heads_kv, 16 * heads_kv):
        raise ValueError(f"q: {heads_q} query heads over {heads_kv} KV heads; msa_prefill takes 8 or 16 for each")
    if cu_q.shape[0] < 2:
        raise ValueError("cu_q: it has no sequence; msa_prefill takes one offset more than there are sequences")


def msa_prefill(
    q, k, v, iq, ik, cu_q, cu_k, out, *,
    INDEX_BLOCK_M=64, INDEX_FILL=4, INDEX_NUM_WARPS=4, INDEX_NUM_STAGES=3,
    ATTEND_ROWS=64, ATTEND_BLOCK_N=64, ATTEND_NUM_WARPS=4, ATTEND_NUM_STAGES=3, DENSE_UP_TO=2048,
):  # fmt: skip
    dense_check(q, k, v, iq, ik, cu_q, cu_k, out)
    if k.shape[0] <= DENSE_UP_TO:  # no sequence is longer: whatever the index says, all of it is attended to
        dense_dense(q, k, v, cu_q, cu_k, out)
        return
    ids = torch.empty((k.shape[1], q.shape[0], 16), dtype=torch.int32, device=q.device)
    index_msa_index(
        iq, ik, cu_q, cu_k, ids,
        BLOCK_M=INDEX_BLOCK_M, FILL=INDEX_FILL, NUM_WARPS=INDEX_NUM_WARPS, NUM_STAGES=INDEX_NUM_STAGES,
    )  # fmt: skip
    attend_msa_attend(
        q, k, v, ids, cu_q, cu_k, out,
        ROWS=ATTEND_ROWS, BLOCK_N=ATTEND_BLOCK_N, NUM_WARPS=ATTEND_NUM_WARPS, NUM_STAGES=ATTEND_NUM_STAGES,
    )  # fmt: skip
