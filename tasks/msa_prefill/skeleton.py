"""Skeleton of MSA prefill: it compiles and launches, and its result is wrong. What is missing is marked TODO."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers worth tuning: the name of a keyword-only parameter of `msa_prefill`, and the choices to try. May be left out.
TUNE = {
    "NUM_WARPS": [4, 8],
}


@triton.jit
def msa_prefill_kernel(q_ptr, k_ptr, v_ptr, iq_ptr, ik_ptr, out_ptr, S, HKV, G: tl.constexpr):
    # One program computes the G query heads of one query that share a KV head. tl.dot wants 16 rows: G may be 8.
    token = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.arange(0, 16)
    dims = tl.arange(0, 128)
    keys = tl.arange(0, 128)
    # TODO: the query's sequence (cu_q), where its keys begin (cu_k), and its position: len_k - len_q + its number.
    # TODO: of each whole block before the query's own the largest iq . ik; the 15 best blocks, and the own one.
    iq = tl.load(iq_ptr + (token.to(tl.int64) * HKV + head) * 128 + dims)
    ik = tl.load(ik_ptr + keys[:, None] * 128 + dims[None, :], mask=keys[:, None] < S, other=0.0)
    best = tl.max(tl.sum(iq[None, :].to(tl.float32) * ik.to(tl.float32), axis=1), axis=0)
    # TODO: softmax attention over the visible tokens of these blocks alone, scaled by 1 / sqrt(128).
    at_q = (token.to(tl.int64) * HKV + head) * G * 128 + rows[:, None] * 128 + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=rows[:, None] < G, other=0.0)
    at = (keys.to(tl.int64) * HKV + head) * 128
    k = tl.load(k_ptr + at[None, :] + dims[:, None], mask=keys[None, :] < S, other=0.0)
    v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=keys[:, None] < S, other=0.0)
    acc = tl.dot((tl.dot(q, k) * best).to(tl.bfloat16), v)
    tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=rows[:, None] < G)


def msa_prefill(q, k, v, iq, ik, cu_q, cu_k, out, *, NUM_WARPS=4):
    """out = attention of each query over the 16 blocks that the index chooses for it; returns None.

    q, out [T, HQ, 128], k and v [S, HKV, 128], iq [T, HKV, 128], ik [S, 128] bfloat16; cu_q and cu_k [OFFSETS] int32;
    all contiguous on the device. HQ is 8 or 16 times HKV.
    """
    T, HQ, _ = q.shape
    S, HKV, _ = k.shape
    msa_prefill_kernel[(T, HKV)](q, k, v, iq, ik, out, S, HKV, G=HQ // HKV, num_warps=NUM_WARPS)
