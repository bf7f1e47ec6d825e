# MSA attention over selected blocks, prefill, for NVIDIA H200.
# Published by kopt 0.1.0 on 2026-11-27.
#
# Measured: 19.7 % of the roofline (geometric mean), 20 batches a shape,
# in fresh processes, after the best of 4 submissions was known.
#   8k-random            1397.4 us   19.3 %
#   8k-m3_like            924.7 us   29.1 %
#   128k-random          1461.3 us   18.4 %
#   128k-m3_like          929.5 us   29.0 %
#   128k-hot_block        713.7 us   37.7 %
#   128k-8x1-m3_like      174.2 us   19.3 %
#   128k-8x1-random       647.1 us    5.2 %
# Under lasting load, which is no part of that number:
#   8k-random            1505.8 us   17.9 %
#   8k-m3_like           1055.6 us   25.5 %
#   128k-random          1521.8 us   17.7 %
#   128k-m3_like         1062.4 us   25.3 %
#   128k-hot_block        804.6 us   33.5 %
#   128k-8x1-m3_like      193.9 us   17.4 %
#   128k-8x1-random       722.8 us    4.7 %
#
# torch 2.11.0+cu130, triton 3.6.0, evaluator 6, driver 580.159.04
# Run msa_attend-h200, submission 4 (ba40f2c169d6cb66); the .json beside it has all.
# SPDX-License-Identifier: Apache-2.0

"""Union tile or KV-outer, tile by tile: the device counts what the lists of neighbours have in common and chooses.

A tile of queries whose lists have at most MOST different blocks is attended at once, as in union.py. The others are
left to kv_outer.py's way: their lists are turned round, a block is read once, and partial results are combined. What
there is to do is known on the device alone, and nothing waits for the host. Up to ALONE rows, queries times KV heads,
unions serve all tiles: where lists are alike, a call that short is over before the host has launched the rest.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

CLASS = "adaptive"

BLOCK = tl.constexpr(128)
HEAD_DIM = tl.constexpr(128)
TOP_K = tl.constexpr(16)
# 1 / sqrt(128) for the base-2 exponential.
SCALE = tl.constexpr(0.08838834764831845 * 1.4426950408889634)
# Of a list entry that names no visible block; greater than any row of k.
NOTHING = tl.constexpr(2**31 - 1)

SIZED = 8  # queries a program of `size_kernel` takes, at least one tile
SORTED = 128  # queries a program of the counting sort takes: whole words of 32
COUNTED = 4096  # words a program of `count_kernel` takes
COMBINED = 4  # queries a program of `combine_kernel` takes
HELD = 64  # rows, of queries and heads, that meet a block at a time


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
def size_kernel(
    ids_ptr, cu_q_ptr, cu_k_ptr, sizes_ptr, T, OFFSETS, tiles,
    TILE: tl.constexpr, TILES: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    """How many different blocks the lists of each tile name, TILES tiles a program."""
    tile = tl.program_id(0) * TILES + tl.arange(0, TILES)
    head = tl.program_id(1)
    entry = tl.arange(0, TILE * TOP_K)
    lister = tile[:, None] * TILE + (entry // TOP_K)[None, :]
    start, position = locate(lister, cu_q_ptr, cu_k_ptr, T, OFFSETS, SEARCH)
    at = (head.to(tl.int64) * T + lister) * TOP_K + (entry % TOP_K)[None, :]
    ids = tl.load(ids_ptr + at, mask=lister < T, other=-1)
    named = (ids >= 0) & (ids <= (position >> 7))
    blocks = tl.where(named, start + ids * BLOCK, NOTHING)
    before = (blocks[:, None, :] == blocks[:, :, None]) & (entry[None, :] < entry[:, None])[None, :, :]
    known = tl.max(before.to(tl.int32), axis=2)
    size = tl.sum(tl.where(named & (known == 0), 1, 0), axis=1)
    tl.store(sizes_ptr + head * tiles + tile, size, mask=tile < tiles)


@triton.jit
def union_kernel(
    q_ptr, k_desc, v_desc, ids_ptr, cu_q_ptr, cu_k_ptr, sizes_ptr, out_ptr, odd_ptr,
    T, S, HKV, OFFSETS, largest,
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

    tile = head * tl.num_programs(0) + tl.program_id(0)
    count = tl.load(sizes_ptr + tile)
    if count > largest:
        tl.store(odd_ptr + tile * TILE * G + rows, tl.zeros((TILE * G,), tl.int8))
        return

    at_q = ((tokens.to(tl.int64) * HKV + head) * G + rows % G)[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=valid[:, None], other=0.0)
    highest = tl.full((TILE * G,), float("-inf"), tl.float32)
    total = tl.zeros((TILE * G,), tl.float32)
    acc = tl.zeros((TILE * G, HEAD_DIM), tl.float32)
    # The union in ascending order, without sorting: the smallest that is larger than the one before.
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


@triton.jit
def sequence_of(token, cu_q_ptr, sequences, STEPS: tl.constexpr):
    """The last sequence that starts at or before each token: empty ones are passed over."""
    found = token * 0
    for step in tl.static_range(STEPS):
        further = found + (1 << (STEPS - 1 - step))
        inside = further < sequences
        start = tl.load(cu_q_ptr + further, mask=inside, other=0)
        found = tl.where(inside & (start <= token), further, found)
    return found


@triton.jit
def entries(ids_ptr, cu_q_ptr, cu_k_ptr, T, first, count, sequences, head,
            QUERIES: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr):  # fmt: skip
    """Of a program's queries the position, the first key and the number of keys of their sequence; of their lists the
    blocks, and each block's row in the inverse index: those of one sequence follow each other, and sequence b's begin
    at cu_k[b] // SIZE + b, which leaves room for a last block that is cut short."""
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    token = first + query
    b = sequence_of(token, cu_q_ptr, sequences, STEPS)
    q0 = tl.load(cu_q_ptr + b)
    k0 = tl.load(cu_k_ptr + b)
    keys = tl.load(cu_k_ptr + b + 1) - k0
    position = keys - (tl.load(cu_q_ptr + b + 1) - q0) + token - q0
    at = ((head.to(tl.int64) * T + token) * K)[:, None] + tl.arange(0, K)[None, :]
    block = tl.load(ids_ptr + at, mask=(query < count)[:, None], other=-1)
    return query, position, k0, keys, block, (k0 // SIZE + b)[:, None] + block


@triton.jit
def left(sizes_ptr, query, live, head, tiles, largest, TILE: tl.constexpr):
    """Which queries are of a tile that the union has left."""
    return live & (tl.load(sizes_ptr + head * tiles + query // TILE, mask=live, other=0) > largest)


@triton.jit
def mark_kernel(sizes_ptr, ids_ptr, cu_q_ptr, cu_k_ptr, position_ptr, real_ptr, bits_ptr,
                T, first, count, sequences, rows, tiles, largest,
                QUERIES: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr,
                WORDS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Says which entries of a list count, one bit each, and sets the bit of every (row, query)."""
    head = tl.program_id(1)
    query, position, _k0, _keys, block, row = entries(
        ids_ptr, cu_q_ptr, cu_k_ptr, T, first, count, sequences, head, QUERIES, K, SIZE, STEPS
    )
    live = query < count
    slot = tl.arange(0, K)[None, :]
    # What lies beyond the query, or beyond its sequence, is not attended to; what is listed twice counts once.
    real = (block >= 0) & (block <= (position // SIZE)[:, None]) & (position >= 0)[:, None]
    real = real & left(sizes_ptr, first + query, live, head, tiles, largest, TILE)[:, None]
    for other in tl.static_range(K - 1):
        twin = tl.sum(tl.where(slot == other, block, 0), 1)
        real = real & ((slot <= other) | (block != twin[:, None]))
    tl.store(position_ptr + query, position, mask=live & (head == 0))
    tl.store(real_ptr + head * count + query, tl.sum(real.to(tl.int32) << slot, 1), mask=live)
    word = (head.to(tl.int64) * rows + row) * WORDS + (query // 32)[:, None]
    bit = tl.full((QUERIES, K), 1, tl.int32) << (query % 32)[:, None]
    tl.atomic_or(bits_ptr + word, bit, mask=real, sem="relaxed")


@triton.jit
def ones(word):
    """Set bits of each word."""
    x = word.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    x = x + (x >> 16)
    return (x & 63).to(tl.int32)


@triton.jit
def count_kernel(bits_ptr, before_ptr, counts_ptr, rows, AT_ONCE: tl.constexpr, WORDS: tl.constexpr):
    """Of each row: how many queries chose it, and how many of them before each word."""
    row = tl.program_id(0) * AT_ONCE + tl.arange(0, AT_ONCE)
    at = tl.program_id(1).to(tl.int64) * rows + row
    inside = row < rows
    words = at[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    number = ones(tl.load(bits_ptr + words, mask=inside[:, None], other=0))
    tl.store(before_ptr + words, tl.cumsum(number, 1) - number, mask=inside[:, None])
    tl.store(counts_ptr + at, tl.sum(number, 1), mask=inside)


@triton.jit
def scan_kernel(counts_ptr, row_start_ptr, item_start_ptr, items_ptr, rows,
                CAP: tl.constexpr, BLOCK_ROWS: tl.constexpr):  # fmt: skip
    """Of one head: where each row's queries begin, and where its items (at most CAP queries each) do."""
    head = tl.program_id(0)
    queries = 0
    items = 0
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        at = head.to(tl.int64) * rows + row
        number = tl.load(counts_ptr + at, mask=row < rows, other=0)
        parts = (number + (CAP - 1)) // CAP
        tl.store(row_start_ptr + at, queries + tl.cumsum(number, 0) - number, mask=row < rows)
        tl.store(item_start_ptr + at, items + tl.cumsum(parts, 0) - parts, mask=row < rows)
        queries += tl.sum(number, 0)
        items += tl.sum(parts, 0)
    tl.store(items_ptr + head, items)


@triton.jit
def place_kernel(ids_ptr, cu_q_ptr, cu_k_ptr, real_ptr, bits_ptr, before_ptr, counts_ptr, row_start_ptr, item_start_ptr,
                 gathered_ptr, work_ptr, T, first, count, sequences, rows, width, most,
                 QUERIES: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr,
                 WORDS: tl.constexpr, CAP: tl.constexpr):  # fmt: skip
    """Puts every entry (query and slot) into its row, queries ascending; a row's every CAP-th describes an item."""
    head = tl.program_id(1)
    query, _position, k0, keys, block, row = entries(
        ids_ptr, cu_q_ptr, cu_k_ptr, T, first, count, sequences, head, QUERIES, K, SIZE, STEPS
    )
    flags = tl.load(real_ptr + head * count + query, mask=query < count, other=0)
    real = ((flags[:, None] >> tl.arange(0, K)[None, :]) & 1) != 0
    at = head.to(tl.int64) * rows + row
    word = at * WORDS + (query // 32)[:, None]
    lower = (tl.full((QUERIES, K), 1, tl.int32) << (query % 32)[:, None]) - 1
    rank = tl.load(before_ptr + word, mask=real, other=0) + ones(tl.load(bits_ptr + word, mask=real, other=0) & lower)
    start = tl.load(row_start_ptr + at, mask=real, other=0)
    handle = query[:, None] * K + tl.arange(0, K)[None, :]
    tl.store(gathered_ptr + head.to(tl.int64) * width + start + rank, handle, mask=real)

    leads = real & (rank % CAP == 0)
    item = tl.load(item_start_ptr + at, mask=leads, other=0) + rank // CAP
    number = tl.load(counts_ptr + at, mask=leads, other=0)
    record = work_ptr + (head.to(tl.int64) * most + item) * 8
    tl.store(record, k0[:, None] + block * SIZE, mask=leads)
    tl.store(record + 1, tl.minimum(keys[:, None] - block * SIZE, SIZE), mask=leads)
    tl.store(record + 2, block * SIZE, mask=leads)
    tl.store(record + 3, start + rank, mask=leads)
    tl.store(record + 4, tl.minimum(number - rank, CAP), mask=leads)


@triton.jit
def partial_kernel(q_ptr, k_ptr, v_ptr, gathered_ptr, work_ptr, items_ptr, position_ptr, partial_ptr, lse_ptr,
                   first, width, most, scale,
                   HKV: tl.constexpr, G: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr,
                   ROWS: tl.constexpr):  # fmt: skip
    """One item: a block of K and V held once, and the queries of its list, ROWS // G tokens of G heads at a time.

    Stores the normalised output over this block alone, and the base-2 logarithm of what it was divided by.
    """
    head = tl.program_id(1)
    if tl.program_id(0) >= tl.load(items_ptr + head):
        return
    record = work_ptr + (head.to(tl.int64) * most + tl.program_id(0)) * 8
    key = tl.load(record)
    keys = tl.load(record + 1)
    base = tl.load(record + 2)
    start = tl.load(record + 3)
    number = tl.load(record + 4)

    d = tl.arange(0, D)
    cols = tl.arange(0, SIZE)
    held = ((key + cols).to(tl.int64) * HKV + head)[:, None] * D + d[None, :]
    k = tl.load(k_ptr + held, mask=(cols < keys)[:, None], other=0.0)
    v = tl.load(v_ptr + held, mask=(cols < keys)[:, None], other=0.0)

    lane = tl.arange(0, ROWS)
    TOKENS: tl.constexpr = ROWS // G
    gathered_ptr += head.to(tl.int64) * width + start
    for at in range(0, number, TOKENS):
        mine = at + lane // G
        live = mine < number
        handle = tl.load(gathered_ptr + mine, mask=live, other=0)
        query = handle // K
        reach = tl.load(position_ptr + query, mask=live, other=2147483647) - base  # rows to spare see everything
        line = ((first + query).to(tl.int64) * HKV + head) * G + lane % G
        q = tl.load(q_ptr + line[:, None] * D + d[None, :], mask=live[:, None], other=0.0)
        score = tl.dot(q, k.T)
        score = tl.where(cols[None, :] <= reach[:, None], score * scale, float("-inf"))
        top = tl.max(score, 1)
        weight = tl.exp2(score - top[:, None])
        total = tl.sum(weight, 1)
        out = tl.dot(weight.to(v.dtype), v) / total[:, None]
        slot = ((query.to(tl.int64) * HKV + head) * K + handle % K) * G + lane % G
        tl.store(partial_ptr + slot[:, None] * D + d[None, :], out.to(tl.bfloat16), mask=live[:, None])
        tl.store(lse_ptr + slot, top + tl.log2(total), mask=live)


@triton.jit
def combine_kernel(sizes_ptr, real_ptr, partial_ptr, lse_ptr, out_ptr, first, count, tiles, largest,
                   HKV: tl.constexpr, G: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
                   QUERIES: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """The G heads of a few queries: their partial results, weighted by their shares of the softmax's denominator."""
    head = tl.program_id(1)
    lane = tl.arange(0, QUERIES * G)
    d = tl.arange(0, D)
    query = tl.program_id(0) * QUERIES + lane // G
    live = left(sizes_ptr, first + query, query < count, head, tiles, largest, TILE)
    if tl.max(live.to(tl.int32), axis=0) == 0:
        return
    flags = tl.load(real_ptr + head * count + query, mask=live, other=0)
    line = (query.to(tl.int64) * HKV + head) * K * G + lane % G
    top = tl.full((QUERIES * G,), float("-inf"), tl.float32)
    for slot in tl.static_range(K):
        real = (flags & (1 << slot)) != 0
        top = tl.maximum(top, tl.load(lse_ptr + line + slot * G, mask=real, other=float("-inf")))
    top = tl.where(top == float("-inf"), 0.0, top)  # nothing was selected
    total = tl.zeros((QUERIES * G,), dtype=tl.float32)
    acc = tl.zeros((QUERIES * G, D), dtype=tl.float32)
    for slot in tl.static_range(K):
        real = (flags & (1 << slot)) != 0
        share = tl.exp2(tl.load(lse_ptr + line + slot * G, mask=real, other=float("-inf")) - top)
        part = tl.load(partial_ptr + (line + slot * G)[:, None] * D + d[None, :], mask=real[:, None], other=0.0)
        total += share
        acc += share[:, None] * part.to(tl.float32)
    acc /= tl.where(total == 0.0, 1.0, total)[:, None]
    target = ((first + query).to(tl.int64) * HKV + head) * G + lane % G
    tl.store(out_ptr + target[:, None] * D + d[None, :], acc.to(tl.bfloat16), mask=live[:, None])


def msa_attend(
    q, k, v, ids, cu_q, cu_k, out, *,
    MOST=36, ALONE=4096, ROWS=64, BLOCK_N=64, NUM_WARPS=4, NUM_STAGES=3, CAP=64, PARTIAL_MIB=1024,
):  # fmt: skip
    T, HKV, G = check(q, k, v, ids, cu_q, cu_k, out)
    S = k.shape[0]
    sequences = cu_q.shape[0] - 1
    tile = ROWS // G
    if T * HKV <= ALONE:
        MOST = tile * 16
    grid = (triton.cdiv(T, tile), HKV)

    def empty(*sizes, dtype=torch.int32):
        return torch.empty(sizes, dtype=dtype, device=q.device)

    sizes, odd = empty(HKV, grid[0]), empty(HKV, grid[0], ROWS, dtype=torch.int8)
    search = sequences.bit_length()
    at_once = max(1, SIZED // tile)
    size_kernel[(triton.cdiv(grid[0], at_once), HKV)](
        ids, cu_q, cu_k, sizes, T, sequences + 1, grid[0], TILE=tile, TILES=at_once, SEARCH=search
    )
    k_desc, v_desc = (TensorDescriptor.from_tensor(x.view(x.shape[0], -1), [BLOCK_N, 128]) for x in (k, v))
    union_kernel[grid](
        q, k_desc, v_desc, ids, cu_q, cu_k, sizes, out, odd, T, S, HKV, sequences + 1, MOST,
        G=G, TILE=tile, SEARCH=search, BLOCK_N=BLOCK_N, PARTS=128 // BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    again_kernel[grid](odd, q, k, v, ids, cu_q, cu_k, out, T, HKV, sequences + 1, G=G, TILE=tile, SEARCH=search)
    if MOST >= tile * 16:
        return  # no tile has more

    steps = (sequences - 1).bit_length()
    rows = S // 128 + sequences + 1
    fits = (PARTIAL_MIB << 20) // (HKV * G * 16 * 2 * 128)
    chunk = max(SORTED, min(1 << (fits.bit_length() - 1) if fits else SORTED, triton.next_power_of_2(T)))
    words = chunk // 32
    at_once = max(1, COUNTED // words)
    width = chunk * 16
    most = min(rows, width) + width // CAP
    position, real = empty(chunk), empty(HKV, chunk)
    gathered, work, items = empty(HKV, width), empty(HKV, most, 8), empty(HKV)
    before, counts = empty(HKV, rows, words), empty(HKV, rows)
    row_start, item_start = empty(HKV, rows), empty(HKV, rows)
    partial = empty(chunk, HKV, 16, G, 128, dtype=torch.bfloat16)
    lse = empty(chunk, HKV, 16, G, dtype=torch.float32)
    scale = 128**-0.5 * 1.4426950408889634  # log2(e): exponentials are of base 2
    for first in range(0, T, chunk):
        count = min(chunk, T - first)
        bits = torch.zeros((HKV, rows, words), dtype=torch.int32, device=q.device)
        sort = (triton.cdiv(count, SORTED), HKV)
        mark_kernel[sort](
            sizes, ids, cu_q, cu_k, position, real, bits, T, first, count, sequences, rows, grid[0], MOST,
            QUERIES=SORTED, K=16, SIZE=128, STEPS=steps, WORDS=words, TILE=tile,
        )  # fmt: skip
        count_kernel[(triton.cdiv(rows, at_once), HKV)](bits, before, counts, rows, AT_ONCE=at_once, WORDS=words)
        scan_kernel[(HKV,)](counts, row_start, item_start, items, rows, CAP=CAP, BLOCK_ROWS=1024)
        place_kernel[sort](
            ids, cu_q, cu_k, real, bits, before, counts, row_start, item_start, gathered, work,
            T, first, count, sequences, rows, width, most,
            QUERIES=SORTED, K=16, SIZE=128, STEPS=steps, WORDS=words, CAP=CAP,
        )  # fmt: skip
        partial_kernel[(most, HKV)](
            q, k, v, gathered, work, items, position, partial, lse, first, width, most, scale,
            HKV=HKV, G=G, K=16, SIZE=128, D=128, ROWS=HELD, num_warps=4, num_stages=1,
        )  # fmt: skip
        combine_kernel[(triton.cdiv(count, COMBINED), HKV)](
            sizes, real, partial, lse, out, first, count, grid[0], MOST,
            HKV=HKV, G=G, K=16, D=128, QUERIES=COMBINED, TILE=tile, num_warps=8,
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
