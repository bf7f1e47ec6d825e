"""Three kernels: the score of every block, the 16 best of each row, and one program that attends to a whole list."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

RUNG = 1
CLASS = "plain"
TUNE = {
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2],
}
BLOCK = tl.constexpr(128)
TOP = tl.constexpr(16)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of fp32; what is below is no block at all
SCALE = tl.constexpr(0.12751743)  # log2(e) / sqrt(128)


@triton.jit
def score_kernel(iq_ptr, ikc_ptr, table_ptr, lens_ptr, score_ptr, PAGES, WIDTH, HKV: tl.constexpr):
    j = tl.program_id(0)
    b = tl.program_id(1)
    length = min(tl.load(lens_ptr + b), WIDTH * BLOCK)
    # The own block, the last one, needs no score: those before it are visible whole.
    if j >= (length + BLOCK - 1) // BLOCK - 1:
        return
    head = tl.arange(0, 16)  # a matrix product has 16 rows at least
    d = tl.arange(0, 128)
    token = tl.arange(0, BLOCK)
    page = tl.load(table_ptr + b * WIDTH + j)
    # A page that is not there has no tokens.
    there = (page >= 0) & (page < PAGES)
    q = tl.load(iq_ptr + (b * HKV + head)[:, None] * 128 + d[None, :], mask=(head < HKV)[:, None], other=0.0)
    k = tl.load(ikc_ptr + tl.where(there, page, 0).to(tl.int64) * BLOCK * 128 + token[:, None] * 128 + d[None, :])
    score = tl.max(tl.dot(q, k.T), axis=1)
    score = tl.where(there, tl.where(score > LOWEST, score, LOWEST), float("-inf"))
    tl.store(score_ptr + (b * HKV + head) * WIDTH + j, score, mask=head < HKV)


@triton.jit
def top_kernel(lens_ptr, score_ptr, blocks_ptr, WIDTH, HKV: tl.constexpr, WIDE: tl.constexpr):
    row = tl.program_id(0)
    length = min(tl.load(lens_ptr + row // HKV), WIDTH * BLOCK)
    own = (length + BLOCK - 1) // BLOCK - 1
    at = tl.arange(0, WIDE)
    slot = tl.arange(0, TOP)
    scores = tl.load(score_ptr + row * WIDTH + at, mask=at < own, other=float("-inf"))
    blocks = tl.where(slot == 0, own, -1)
    for i in range(1, min(own + 1, TOP)):
        high, block = tl.max(scores, axis=0, return_indices=True, return_indices_tie_break_left=True)
        blocks = tl.where(slot == i, tl.where(high > float("-inf"), block, -1), blocks)
        scores = tl.where(at == block, float("-inf"), scores)
    tl.store(blocks_ptr + row * TOP + slot, blocks)


@triton.jit
def attend_kernel(
    q_ptr, kc_ptr, vc_ptr, table_ptr, lens_ptr, blocks_ptr, out_ptr,
    PAGES, WIDTH, HKV: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(0)
    b = tl.program_id(1)
    length = min(tl.load(lens_ptr + b), WIDTH * BLOCK)
    row = tl.arange(0, 16)
    d = tl.arange(0, 128)
    token = tl.arange(0, BLOCK)
    there = (row < GROUP)[:, None]
    at = ((b * HKV + h) * GROUP + row)[:, None] * 128 + d[None, :]
    q = tl.load(q_ptr + at, mask=there, other=0.0)
    top = tl.full((16,), float("-inf"), tl.float32)
    total = tl.zeros((16,), tl.float32)
    acc = tl.zeros((16, 128), tl.float32)
    for i in range(min((length + BLOCK - 1) // BLOCK, TOP)):
        block = tl.load(blocks_ptr + (b * HKV + h) * TOP + i)
        page = tl.load(table_ptr + b * WIDTH + block, mask=block >= 0, other=-1)
        # Beyond the last token a page may hold anything, which no weight of 0 would make harmless.
        seen = token < tl.where((page >= 0) & (page < PAGES), length - block * BLOCK, 0)
        cached = (page.to(tl.int64) * HKV + h) * BLOCK * 128 + token[:, None] * 128 + d[None, :]
        k = tl.load(kc_ptr + cached, mask=seen[:, None], other=0.0)
        v = tl.load(vc_ptr + cached, mask=seen[:, None], other=0.0)
        s = tl.where(seen[None, :], tl.dot(q, k.T) * SCALE, float("-inf"))
        new = tl.maximum(top, tl.max(s, axis=1))
        # A row of NaN has no largest logit; it stays NaN.
        shift = tl.where(new > float("-inf"), new, 0.0)
        p = tl.exp2(s - shift[:, None])
        keep = tl.exp2(top - shift)
        acc = tl.dot(p.to(tl.bfloat16), v, acc * keep[:, None])
        total = total * keep + tl.sum(p, axis=1)
        top = new
    out = tl.where(total[:, None] == 0, 0.0, acc / total[:, None])
    tl.store(out_ptr + at, out.to(tl.bfloat16), mask=there)


def msa_decode(q, kc, vc, iq, ikc, table, lens, out, *, NUM_WARPS=4, NUM_STAGES=1):
    check(q, kc, vc, iq, ikc, table, lens, out)
    B, HQ, _ = q.shape
    PAGES, HKV = kc.shape[:2]
    WIDTH = table.shape[1]
    score = torch.empty((B, HKV, WIDTH), dtype=torch.float32, device=q.device)
    blocks = torch.empty((B, HKV, 16), dtype=torch.int32, device=q.device)
    score_kernel[(WIDTH, B)](iq, ikc, table, lens, score, PAGES, WIDTH, HKV=HKV, num_warps=4)
    top_kernel[(B * HKV,)](lens, score, blocks, WIDTH, HKV=HKV, WIDE=triton.next_power_of_2(WIDTH), num_warps=4)
    attend_kernel[(HKV, B)](
        q, kc, vc, table, lens, blocks, out, PAGES, WIDTH,
        HKV=HKV, GROUP=HQ // HKV, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip


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
    if HKV > 16:
        raise ValueError(f"kc: {HKV} KV heads; msa_decode takes 16 at most")
    if HQ not in (8 * HKV, 16 * HKV):
        raise ValueError(f"q: {HQ} query heads over {HKV} KV heads; msa_decode takes 8 or 16 for each")
