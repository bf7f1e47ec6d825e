"""Skeleton of an MSA decode over e4m3: it compiles and launches, and its result is wrong; what is missing: see TODO."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers worth tuning: names of keyword-only parameters of `msa_decode_e4m3`, and the choices to try. May be left out.
TUNE = {
    "NUM_WARPS": [4, 8],
}
BLOCK = tl.constexpr(128)


@triton.jit
def msa_decode_e4m3_kernel(
    q_ptr, kc_ptr, vc_ptr, scales_ptr, table_ptr, lens_ptr, out_ptr,
    WIDTH, HKV: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # One program has one KV head of one request, with the query heads that share it.
    h = tl.program_id(0)
    b = tl.program_id(1)
    length = min(tl.load(lens_ptr + b), WIDTH * BLOCK)
    own = (length + BLOCK - 1) // BLOCK - 1
    row = tl.arange(0, 16)  # a matrix product has 16 rows at least
    token = tl.arange(0, BLOCK)
    d = tl.arange(0, 128)
    at = ((b * HKV + h) * GROUP + row)[:, None] * 128 + d[None, :]
    q = tl.load(q_ptr + at, mask=(row < GROUP)[:, None], other=0.0)

    # TODO: this looks at the own block alone. Score all blocks before it (iq, ikc), and attend to the best 15 as well.
    page = tl.load(table_ptr + b * WIDTH + own, mask=own >= 0, other=0)
    # TODO: keys count scales[0] times, values scales[1] times.
    # TODO: page numbers from 0 to PAGES - 1 are pages; a block with any other number has no tokens.
    seen = token < tl.where(page == 0, length - own * BLOCK, 0)
    cached = (page.to(tl.int64) * HKV + h) * BLOCK * 128 + token[:, None] * 128 + d[None, :]
    k = tl.load(kc_ptr + cached, mask=seen[:, None], other=0.0)
    v = tl.load(vc_ptr + cached, mask=seen[:, None], other=0.0)
    logits = tl.where(seen[None, :], tl.dot(q, k.to(tl.bfloat16).T) * 0.08838835, -1e38)
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    out = tl.dot(p.to(tl.bfloat16), v.to(tl.bfloat16)) / tl.sum(p, axis=1)[:, None]
    tl.store(out_ptr + at, out.to(tl.bfloat16), mask=(row < GROUP)[:, None])


def msa_decode_e4m3(q, kc, vc, iq, ikc, scales, table, lens, out, *, NUM_WARPS=4):
    """out [B, HQ, 128] bfloat16, written in place; returns None.

    q [B, HQ, 128] and iq [B, HKV, 128] bfloat16, kc and vc [PAGES, HKV, 128, 128] and ikc [PAGES, 128, 128]
    float8_e4m3fn, scales [2] float32, table [B, WIDTH] and lens [B] int32, all contiguous on the device, bases aligned
    to 16 bytes.
    """
    B, HQ, _ = q.shape
    HKV = kc.shape[1]
    # TODO: one request has four programs here; a GPU has more than a hundred places for them.
    msa_decode_e4m3_kernel[(HKV, B)](
        q, kc, vc, scales, table, lens, out, table.shape[1], HKV=HKV, GROUP=HQ // HKV, num_warps=NUM_WARPS
    )  # fmt: skip
