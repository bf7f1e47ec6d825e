"""Split-K: scores of all blocks spread over the GPU, each part of a list attended by a program of its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 2
CLASS = "split-k"
TUNE = {
    "FILL": [1, 2, 3, 6],  # programs of the scores for each SM to aim at
    "PARTS": [1, 2, 4, 8, 16],  # of a list, each with a program, at most; their results are merged
    "SCORE_STAGES": [2, 3, 4],
    "NUM_WARPS": [4, 8],  # of attention; beyond 128 pages a request always 8
    "NUM_STAGES": [1, 2, 3],
    "PDL": [0, 1],  # launches begin before those they wait for have ended
    "MAXIMA": [0, 1],  # maxima of 8 blocks, found with the scores, spare the selection of long lists trips to memory
    "LAST": [0, 1],  # the last part of a list to end merges them all: no launch
}
BLOCK = tl.constexpr(128)
TOP = tl.constexpr(16)
GROUPS = tl.constexpr(128)  # of blocks, among which the best are looked for
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of fp32; what is below is no block at all
SCALE = tl.constexpr(0.12751743)  # log2(e) / sqrt(128)


@triton.jit
def score_kernel(
    iq_ptr, ikc_desc, table_ptr, lens_ptr, score_ptr, most_ptr, ended_ptr,
    PAGES, WIDTH, splits, HKV: tl.constexpr, MAXIMA: tl.constexpr, LAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    b = tl.program_id(1)
    length = min(tl.load(lens_ptr + b), WIDTH * BLOCK)
    # The own block, the last one, needs no score: those before it are visible whole.
    count = (length + BLOCK - 1) // BLOCK - 1
    share = tl.cdiv(max(count, 0), splits)
    if MAXIMA:
        share = tl.cdiv(share, 8) * 8
    first = tl.program_id(0) * share
    # A matrix product has 16 rows at least.
    head = tl.arange(0, 16)
    if LAST and tl.program_id(0) == 0:
        tl.store(ended_ptr + b * HKV + head, 0, mask=head < HKV)
    d = tl.arange(0, 128)
    q = tl.load(iq_ptr + (b * HKV + head)[:, None] * 128 + d[None, :], mask=(head < HKV)[:, None], other=0.0)
    end = min(first + share, count)
    pages = table_ptr + b * WIDTH
    page = tl.load(pages + first, mask=first < end, other=0)
    to = score_ptr + (b * HKV + head) * WIDTH + first
    most = tl.full((16,), float("-inf"), tl.float32)
    most_ptrs = most_ptr + (b * HKV + head) * tl.cdiv(WIDTH, 8)
    for j in range(first, end):
        k = ikc_desc.load([page * BLOCK, 0])
        score = tl.max(tl.dot(q, k.T), axis=1)
        score = tl.where(score > LOWEST, score, LOWEST)
        # A page that is not there has no tokens; what was read in its place is zeros, or another page.
        there = (page >= 0) & (page < PAGES)
        score = tl.where(there, score, float("-inf"))
        tl.store(to, score, mask=head < HKV)
        if MAXIMA:
            # The last of eight stores to a place stays.
            most = tl.where(j % 8 == 0, score, tl.maximum(most, score))
            tl.store(most_ptrs + j // 8, most, mask=head < HKV)
        # A turn ahead: loads of keys do not wait for loads of page numbers.
        page = tl.load(pages + j + 1, mask=j + 1 < end, other=0)
        to += 1


@triton.jit
def ranks(score, first):
    """Of each of [GROUPS] scores, 0 being the highest, of equals the one of lower `first`.

    Every one is compared with every other: no round waits for the one before.
    """
    # Integers in the order of the scores, -0 being 0: one number of each is compared, and moves between threads.
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (bits.to(tl.int64) << 32) | (0x7FFFFFFF - first).to(tl.int64)
    return tl.sum((key[:, None] > key[None, :]).to(tl.int32), axis=0)


@triton.jit
def ranked(rank, values, places):
    """The values whose ranks are `places`."""
    return tl.sum(tl.where(rank[None, :] == places[:, None], values[None, :], 0), axis=1)


@triton.jit
def divided(begin, EACH: tl.constexpr):
    """Where the eighths begin of what is EACH long and begins at `begin` [TOP]: [GROUPS]."""
    return (begin[:, None] + tl.arange(0, 8)[None, :] * (EACH // 8)).reshape(GROUPS)


@triton.jit
def closer(score_ptr, count, first, EACH: tl.constexpr):
    """Of groups of EACH blocks that begin at `first` [GROUPS], the 16 best, each divided into 8: where those begin."""
    block = first[:, None] + tl.arange(0, EACH)[None, :]
    score = tl.max(tl.load(score_ptr + block, mask=block < count, other=float("-inf")), axis=1)
    return divided(ranked(ranks(score, first), first, tl.arange(0, TOP)), EACH)


@triton.jit
def closest(most_ptr, eighths, first):
    """Of groups of 64 blocks that begin at `first` [GROUPS], the 16 best, and of their eighths the 16 best: the blocks
    of these. `closer` twice, for one trip to memory."""
    slot, part = tl.arange(0, TOP), tl.arange(0, 8)
    at = first[:, None] // 8 + part[None, :]
    most = tl.load(most_ptr + at, mask=at < eighths, other=float("-inf"))
    rank = ranks(tl.max(most, axis=1), first)
    chosen = ranked(rank, tl.arange(0, GROUPS), slot)
    most = tl.gather(most, tl.broadcast_to(chosen[:, None], [TOP, 8]), 0).reshape(GROUPS)
    begin = divided(ranked(rank, first, slot), 64)
    return divided(ranked(ranks(most, begin), begin, slot), 8)


@triton.jit
def best(score_ptr, most_ptr, count, EACH: tl.constexpr, MAXIMA: tl.constexpr):
    """The blocks with the 15 highest scores in places 1 to 15, of equals the lower number; -1 where there are fewer.

    Of GROUPS groups of EACH blocks the 16 with the highest maxima hold all of them: these are divided again.
    """
    first = tl.arange(0, GROUPS) * EACH
    if MAXIMA:
        eighths = (count + 7) // 8
        if EACH >= 512:
            first = closer(most_ptr, eighths, first // 8, 64) * 8
        first = closest(most_ptr, eighths, first)
    else:
        if EACH >= 512:
            first = closer(score_ptr, count, first, 512)
        if EACH >= 64:
            first = closer(score_ptr, count, first, 64)
        if EACH >= 8:
            first = closer(score_ptr, count, first, 8)
    score = tl.load(score_ptr + first, mask=first < count, other=float("-inf"))
    slot = tl.arange(0, TOP)
    found = ranked(ranks(score, first), tl.where(score > float("-inf"), first, -1), slot - 1)
    return tl.where(slot > 0, found, -1)


@triton.jit
def attend(q, k, v, seen, top, total, acc):
    """One block more in a running softmax: largest logit (base 2), sum and weighted values."""
    s = tl.where(seen[None, :], tl.dot(q, k.T) * SCALE, float("-inf"))
    new = tl.maximum(top, tl.max(s, axis=1))
    # A row of NaN has no largest logit; it stays NaN.
    shift = tl.where(new > float("-inf"), new, 0.0)
    p = tl.exp2(s - shift[:, None])
    keep = tl.exp2(top - shift)
    acc = tl.dot(p.to(tl.bfloat16), v, acc * keep[:, None])
    return new, total * keep + tl.sum(p, axis=1), acc


@triton.jit
def merged(part_ptr, log_ptr, at, there, PARTS: tl.constexpr):
    """What rows of queries, whose parts begin at `at` [16], come to. Other programs wrote these: not from this SM's L1.

    A part without tokens has no weight; where no part has any, every result is 0. A NaN stays one.
    """
    part = tl.arange(0, PARTS)
    log = tl.load(log_ptr + at[:, None] + part[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg")
    high = tl.max(log, axis=1)
    high = tl.where(high > float("-inf"), high, 0.0)
    total = tl.sum(tl.exp2(log - high[:, None]), axis=1)
    d = tl.arange(0, 128)
    acc = tl.zeros((16, 128), tl.float32)
    for i in tl.static_range(PARTS):
        out = tl.load(
            part_ptr + (at + i)[:, None] * 128 + d[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg"
        )
        acc += out * tl.exp2(tl.load(log_ptr + at + i, mask=there, other=0.0, cache_modifier=".cg") - high)[:, None]
    return acc / tl.where(total == 0, 1.0, total)[:, None]


@triton.jit
def attend_kernel(
    q_ptr, kc_desc, vc_desc, kc_ptr, vc_ptr, table_ptr, lens_ptr, score_ptr, most_ptr, out_ptr, part_ptr,
    log_ptr, ended_ptr, B, PAGES, WIDTH,
    HKV: tl.constexpr, GROUP: tl.constexpr, EACH: tl.constexpr, PARTS: tl.constexpr,
    MAXIMA: tl.constexpr, LAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    h = tl.program_id(1)
    b = tl.program_id(2)
    length = min(tl.load(lens_ptr + b), WIDTH * BLOCK)
    own = (length + BLOCK - 1) // BLOCK - 1
    scores = score_ptr + (b * HKV + h) * WIDTH
    maxima = most_ptr + (b * HKV + h) * tl.cdiv(WIDTH, 8)
    if not PDL:
        blocks = best(scores, maxima, own, EACH, MAXIMA)
    # Else it waits for the scores later, and the own block does not wait for them at all.
    slot = tl.arange(0, TOP)

    row = tl.arange(0, 16)
    head = h * GROUP + row
    d = tl.arange(0, 128)
    token = tl.arange(0, BLOCK)
    there = (row < GROUP)[:, None]
    q = tl.load(q_ptr + (b * HKV * GROUP + head)[:, None] * 128 + d[None, :], mask=there, other=0.0)
    top = tl.full((16,), float("-inf"), tl.float32)
    total = tl.zeros((16,), tl.float32)
    acc = tl.zeros((16, 128), tl.float32)
    if part == 0 and own >= 0:
        page = tl.load(table_ptr + b * WIDTH + own)
        # Beyond the last token the page may hold anything, which no weight of 0 would make harmless.
        seen = token < tl.where((page >= 0) & (page < PAGES), length - own * BLOCK, 0)
        at = (page.to(tl.int64) * HKV + h) * BLOCK * 128 + token[:, None] * 128 + d[None, :]
        k = tl.load(kc_ptr + at, mask=seen[:, None], other=0.0)
        v = tl.load(vc_ptr + at, mask=seen[:, None], other=0.0)
        top, total, acc = attend(q, k, v, seen, top, total, acc)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
        blocks = best(scores, maxima, own, EACH, MAXIMA)
    for i in range(tl.where(part > 0, part, PARTS), min(own + 1, TOP), PARTS):
        block = tl.sum(tl.where(slot == i, blocks, 0))
        page = tl.load(table_ptr + b * WIDTH + block, mask=block >= 0, other=0)
        # Where pages are missing a list is shorter: no place before the first has tokens, and reads there are zeros.
        at = tl.where(block >= 0, (page * HKV + h) * BLOCK, -BLOCK)
        seen = token < tl.where(block >= 0, BLOCK, 0)
        top, total, acc = attend(q, kc_desc.load([at, 0]), vc_desc.load([at, 0]), seen, top, total, acc)

    out = tl.where(total[:, None] == 0, 0.0, acc / total[:, None])
    to = (b * HKV * GROUP + head)[:, None] * 128 + d[None, :]
    if PARTS == 1:
        tl.store(out_ptr + to, out.to(tl.bfloat16), mask=there)
    else:
        # Neighbouring parts of a head lie side by side.
        at = (b * HKV * GROUP + head) * PARTS + part
        tl.store(part_ptr + at[:, None] * 128 + d[None, :], out, mask=there)
        tl.store(log_ptr + at, top + tl.log2(total), mask=row < GROUP)
        if LAST:
            tl.debug_barrier()  # all of the program's stores come before its count
            ended = tl.atomic_add(ended_ptr + b * HKV + h, 1, sem="acq_rel")
            if ended == PARTS - 1:
                out = merged(part_ptr, log_ptr, (b * HKV * GROUP + head) * PARTS, row < GROUP, PARTS)
                tl.store(out_ptr + to, out.to(tl.bfloat16), mask=there)


@triton.jit
def merge_kernel(part_ptr, log_ptr, out_ptr, PARTS: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_wait()
    head = tl.program_id(0)
    part = tl.arange(0, PARTS)
    d = tl.arange(0, 128)
    out = tl.load(part_ptr + (head * PARTS + part)[:, None] * 128 + d[None, :])
    log = tl.load(log_ptr + head * PARTS + part)
    high = tl.max(log, axis=0)
    # A part without tokens has no weight; where no part has any, every result is 0. A NaN stays one.
    weight = tl.exp2(log - tl.where(high > float("-inf"), high, 0.0))
    total = tl.sum(weight, axis=0)
    merged = tl.sum(out * weight[:, None], axis=0) / tl.where(total == 0, 1.0, total)
    tl.store(out_ptr + head * 128 + d, merged.to(tl.bfloat16))


def msa_decode(
    q, kc, vc, iq, ikc, table, lens, out, *, FILL=3, PARTS=16, SCORE_STAGES=2, NUM_WARPS=8, NUM_STAGES=2,
    PDL=0, MAXIMA=0, LAST=0,
):  # fmt: skip
    check(q, kc, vc, iq, ikc, table, lens, out)
    B, HQ, _ = q.shape
    PAGES, HKV = kc.shape[:2]
    WIDTH = table.shape[1]
    sms = torch.cuda.get_device_properties(q.device).multi_processor_count
    splits = max(1, min(WIDTH, FILL * sms // B))
    # One wave: after a selection an SM has no registers for a second program, and partial results are traffic.
    PARTS = max(1, min(PARTS, 1 << (sms // (B * HKV)).bit_length() >> 1))
    # Loads ahead where a program has an SM to itself; in more than one wave, a second program on it does as much.
    NUM_STAGES = NUM_STAGES if B * HKV * PARTS <= sms else 1
    EACH = next(each for each in (1, 8, 64, 512) if 128 * each >= WIDTH)
    # Each step of the selection takes registers that four warps do not have: they spilled.
    NUM_WARPS = NUM_WARPS if EACH == 1 else 8
    MAXIMA = int(MAXIMA and EACH >= 64)
    LAST = int(LAST and PARTS > 1)
    most = score = torch.empty((B, HKV, WIDTH), dtype=torch.float32, device=q.device)
    if MAXIMA:
        most = torch.empty((B, HKV, triton.cdiv(WIDTH, 8)), dtype=torch.float32, device=q.device)
    ended = torch.empty((B, HKV), dtype=torch.int32, device=q.device) if LAST else lens
    ikc_desc, kc_desc, vc_desc = (
        TensorDescriptor.from_tensor(cache.view(-1, 128), [128, 128]) for cache in (ikc, kc, vc)
    )
    score_kernel[(splits, B)](
        iq, ikc_desc, table, lens, score, most, ended, PAGES, WIDTH, splits,
        HKV=HKV, MAXIMA=MAXIMA, LAST=LAST, PDL=PDL, num_warps=4, num_stages=SCORE_STAGES,
    )  # fmt: skip
    part = log = out
    if PARTS > 1:
        part = torch.empty((B, HQ, PARTS, 128), dtype=torch.float32, device=q.device)
        log = torch.empty((B, HQ, PARTS), dtype=torch.float32, device=q.device)
    attend_kernel[(PARTS, HKV, B)](
        q, kc_desc, vc_desc, kc, vc, table, lens, score, most, out, part, log, ended, B, PAGES, WIDTH,
        HKV=HKV, GROUP=HQ // HKV, EACH=EACH, PARTS=PARTS, MAXIMA=MAXIMA, LAST=LAST, PDL=PDL,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES, launch_pdl=bool(PDL),
    )  # fmt: skip
    if PARTS > 1 and not LAST:
        merge_kernel[(B * HQ,)](part, log, out, PARTS=PARTS, PDL=PDL, num_warps=1, launch_pdl=bool(PDL))


def check(q, kc, vc, iq, ikc, table, lens, out):
    """ValueError names the tensor that this kernel does not take. Looks at no value."""
    # Sizes that are not there are 0, which no tensor has.
    (B, HQ), (PAGES, HKV), (_, WIDTH) = ((*tensor.shape, 0, 0)[:2] for tensor in (q, kc, table))
    wide, cache, int32 = torch.bfloat16, torch.bfloat16, torch.int32
    for name, tensor, dtype, shape in (
        ("q", q, wide, (B, HQ, 128)), ("kc", kc, cache, (PAGES, HKV, 128, 128)),
        ("vc", vc, cache, (PAGES, HKV, 128, 128)), ("iq", iq, wide, (B, HKV, 128)),
        ("ikc", ikc, cache, (PAGES, 128, 128)),
        ("table", table, int32, (B, WIDTH)), ("lens", lens, int32, (B,)), ("out", out, wide, (B, HQ, 128)),
    ):  # fmt: skip
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: its dtype is {tensor.dtype}; msa_decode takes {dtype}")
        if tuple(tensor.shape) != shape or not tensor.numel():
            raise ValueError(f"{name}: its sizes are {list(tensor.shape)}; msa_decode takes {list(shape)}, none 0")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: it is not contiguous; pass {name}.contiguous()")
        if tensor.data_ptr() % 16:
            raise ValueError(f"{name}: its base is not aligned to 16 bytes; pass {name}.clone()")
    if WIDTH > 65536:
        raise ValueError(f"table: {WIDTH} pages a request; msa_decode takes 65536 at most")
    if HKV > 16:
        raise ValueError(f"kc: {HKV} KV heads; msa_decode takes 16 at most")
    if HQ not in (8 * HKV, 16 * HKV):
        raise ValueError(f"q: {HQ} query heads over {HKV} KV heads; msa_decode takes 8 or 16 for each")
