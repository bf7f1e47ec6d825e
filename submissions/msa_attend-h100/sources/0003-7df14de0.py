"""KV-outer, gather-Q: a block is read once and the queries that chose it come to it; partial results are combined.

The lists of blocks are turned round on the GPU by a counting sort: a bit per (block, query), prefix sums of the bits,
and a place for every entry. The only atomics set bits, in whatever order; the position of a list entry is its slot, so
that no two partial results share a place. Equal inputs give equal bits.

Queries are taken in chunks whose partial results fit into PARTIAL_MIB (their logarithms add a 64th); the number of
launches follows from the tensors' sizes alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

RUNG = 3
CLASS = "kv-outer"
TUNE = {
    "ROWS": [64, 128],
    "CAP": [64, 128, 256],
    "PARTIAL_MIB": [512, 1024, 2048, 4096],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
}

BLOCK = 128  # tokens of a block
DEPTH = 128  # of a head
TOPK = 16
SORTED = 128  # queries a program of the counting sort takes: whole words of 32
COUNTED = 4096  # words a program of `count_kernel` takes
COMBINED = 4  # queries a program of `combine_kernel` takes


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
def mark_kernel(ids_ptr, cu_q_ptr, cu_k_ptr, position_ptr, real_ptr, bits_ptr, T, first, count, sequences, rows,
                QUERIES: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr,
                WORDS: tl.constexpr):  # fmt: skip
    """Says which entries of a list count, one bit each, and sets the bit of every (row, query)."""
    head = tl.program_id(1)
    query, position, _k0, _keys, block, row = entries(
        ids_ptr, cu_q_ptr, cu_k_ptr, T, first, count, sequences, head, QUERIES, K, SIZE, STEPS
    )
    live = query < count
    slot = tl.arange(0, K)[None, :]
    # What lies beyond the query, or beyond its sequence, is not attended to; what is listed twice counts once.
    real = (block >= 0) & (block <= (position // SIZE)[:, None]) & (position >= 0)[:, None]
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
def combine_kernel(real_ptr, partial_ptr, lse_ptr, out_ptr, first, count,
                   HKV: tl.constexpr, G: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
                   QUERIES: tl.constexpr):  # fmt: skip
    """The G heads of a few queries: their partial results, weighted by their shares of the softmax's denominator."""
    head = tl.program_id(1)
    lane = tl.arange(0, QUERIES * G)
    d = tl.arange(0, D)
    query = tl.program_id(0) * QUERIES + lane // G
    live = query < count
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


def msa_attend(q, k, v, ids, cu_q, cu_k, out, *, ROWS=64, CAP=64, PARTIAL_MIB=1024, NUM_WARPS=4, NUM_STAGES=1):
    T, HKV, G = check(q, k, v, ids, cu_q, cu_k, out)
    S = k.shape[0]
    sequences = cu_q.shape[0] - 1
    steps = (sequences - 1).bit_length()
    rows = S // BLOCK + sequences + 1
    fits = (PARTIAL_MIB << 20) // (HKV * G * TOPK * 2 * DEPTH)
    chunk = max(SORTED, min(1 << (fits.bit_length() - 1) if fits else SORTED, triton.next_power_of_2(T)))
    words = chunk // 32
    at_once = max(1, COUNTED // words)
    width = chunk * TOPK
    most = min(rows, width) + width // CAP

    def empty(*sizes, dtype=torch.int32):
        return torch.empty(sizes, dtype=dtype, device=q.device)

    position, real = empty(chunk), empty(HKV, chunk)
    gathered, work, items = empty(HKV, width), empty(HKV, most, 8), empty(HKV)
    before, counts = empty(HKV, rows, words), empty(HKV, rows)
    row_start, item_start = empty(HKV, rows), empty(HKV, rows)
    partial = empty(chunk, HKV, TOPK, G, DEPTH, dtype=torch.bfloat16)
    lse = empty(chunk, HKV, TOPK, G, dtype=torch.float32)
    scale = DEPTH**-0.5 * 1.4426950408889634  # log2(e): exponentials are of base 2
    for first in range(0, T, chunk):
        count = min(chunk, T - first)
        bits = torch.zeros((HKV, rows, words), dtype=torch.int32, device=q.device)
        sort = (triton.cdiv(count, SORTED), HKV)
        mark_kernel[sort](
            ids, cu_q, cu_k, position, real, bits, T, first, count, sequences, rows,
            QUERIES=SORTED, K=TOPK, SIZE=BLOCK, STEPS=steps, WORDS=words,
        )  # fmt: skip
        count_kernel[(triton.cdiv(rows, at_once), HKV)](bits, before, counts, rows, AT_ONCE=at_once, WORDS=words)
        scan_kernel[(HKV,)](counts, row_start, item_start, items, rows, CAP=CAP, BLOCK_ROWS=1024)
        place_kernel[sort](
            ids, cu_q, cu_k, real, bits, before, counts, row_start, item_start, gathered, work,
            T, first, count, sequences, rows, width, most,
            QUERIES=SORTED, K=TOPK, SIZE=BLOCK, STEPS=steps, WORDS=words, CAP=CAP,
        )  # fmt: skip
        partial_kernel[(most, HKV)](
            q, k, v, gathered, work, items, position, partial, lse, first, width, most, scale,
            HKV=HKV, G=G, K=TOPK, SIZE=BLOCK, D=DEPTH, ROWS=ROWS, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
        )  # fmt: skip
        combine_kernel[(triton.cdiv(count, COMBINED), HKV)](
            real, partial, lse, out, first, count, HKV=HKV, G=G, K=TOPK, D=DEPTH, QUERIES=COMBINED,
            num_warps=8,
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
