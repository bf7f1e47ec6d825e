"""Skeleton of MSA attention: it compiles and launches, and its result is wrong. What is missing is marked TODO."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers worth tuning: the name of a keyword-only parameter of `msa_attend`, and the choices to try. May be left out.
TUNE = {
    "NUM_WARPS": [4, 8],
}


@triton.jit
def msa_attend_kernel(q_ptr, k_ptr, v_ptr, ids_ptr, cu_q_ptr, cu_k_ptr, out_ptr, T, S, HKV, G: tl.constexpr):
    # One program computes the G query heads of one query that share a KV head. tl.dot wants 16 rows: G may be 8.
    token = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.arange(0, 16)
    dims = tl.arange(0, 128)
    at_q = (token.to(tl.int64) * HKV + head) * G * 128 + rows[:, None] * 128 + dims[None, :]
    q = tl.load(q_ptr + at_q, mask=rows[:, None] < G, other=0.0)

    # TODO: the query's sequence (cu_q), where its keys begin (cu_k), and its position: len_k - len_q + its number.
    # TODO: walk over the 16 entries of ids[head, token]; what names no visible block, such as -1, counts for nothing.
    block = tl.load(ids_ptr + (head.to(tl.int64) * T + token) * 16)
    keys = tl.maximum(block, 0) * 128 + tl.arange(0, 128)
    # TODO: the causal mask, beside that for the end of the tensor. 64-bit offsets: S * HKV * 128 may pass 2**31.
    at = (keys.to(tl.int64) * HKV + head) * 128
    k = tl.load(k_ptr + at[None, :] + dims[:, None], mask=keys[None, :] < S, other=0.0)
    v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=keys[:, None] < S, other=0.0)
    # TODO: the scale 1 / sqrt(128), and a softmax over all blocks: running maximum, running sum.
    scores = tl.dot(q, k)
    acc = tl.dot(scores.to(tl.bfloat16), v)
    tl.store(out_ptr + at_q, acc.to(tl.bfloat16), mask=rows[:, None] < G)


def msa_attend(q, k, v, ids, cu_q, cu_k, out, *, NUM_WARPS=4):
    """out = softmax attention of each query over the visible tokens of its listed blocks; returns None.

    q [T, HQ, 128], k and v [S, HKV, 128], out [T, HQ, 128] bfloat16; ids [HKV, T, 16], cu_q and cu_k [OFFSETS] int32;
    all contiguous on the device. HQ is 8 or 16 times HKV.
    """
    T, HQ, _ = q.shape
    S, HKV, _ = k.shape
    msa_attend_kernel[(T, HKV)](
        q, k, v, ids, cu_q, cu_k, out, T, S, HKV, G=HQ // HKV, num_warps=NUM_WARPS
    )  # fmt: skip
