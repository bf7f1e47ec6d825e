"""Skeleton of an MSA index: it compiles and launches, and its result is wrong. What is missing is marked TODO."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers worth tuning: the name of a keyword-only parameter of `msa_index`, and the choices to try. May be left out.
TUNE = {
    "BLOCK_M": [64, 128],
}
BLOCK = tl.constexpr(128)
TOP = tl.constexpr(16)


@triton.jit
def msa_index_kernel(iq_ptr, ik_ptr, cu_q_ptr, cu_k_ptr, ids_ptr, T, HKV: tl.constexpr, BLOCK_M: tl.constexpr):
    # One program has BLOCK_M rows of the product; a row is a token and a head: all heads share the one key.
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = row // HKV
    d = tl.arange(0, 128)
    q = tl.load(iq_ptr + row.to(tl.int64)[:, None] * 128 + d[None, :], mask=(token < T)[:, None], other=0.0)

    # TODO: this takes the first sequence for the only one; offsets are read on the device, never on the host.
    k_start = tl.load(cu_k_ptr)
    position = tl.load(cu_k_ptr + 1) - k_start - tl.load(cu_q_ptr + 1) + token
    own = position >> 7

    # TODO: this looks at the first block alone; walk over all blocks before the own one and keep each row's best 15.
    key = tl.arange(0, BLOCK)
    k = tl.load(
        ik_ptr + (k_start + key)[:, None] * 128 + d[None, :], mask=(key <= tl.max(position))[:, None], other=0.0
    )
    score = tl.max(tl.dot(q, k.T), axis=1)

    # TODO: the own block, then the best others, then -1.
    slot = tl.arange(0, TOP)
    ids = tl.where((slot == 0)[None, :] & (score > 0)[:, None], own[:, None], -1)
    to = ((row % HKV) * T + token).to(tl.int64)[:, None] * TOP + slot[None, :]
    tl.store(ids_ptr + to, ids, mask=(token < T)[:, None])


def msa_index(iq, ik, cu_q, cu_k, ids, *, BLOCK_M=128):
    """ids [HKV, T, 16] int32, written in place; returns None.

    iq [T, HKV, 128] and ik [S, 128] bfloat16, cu_q and cu_k [sequences + 1] int32, all contiguous on the device, bases
    aligned to 16 bytes.
    """
    T, HKV, _ = iq.shape
    # TODO: num_warps (4 or 8) and num_stages (how many tiles of keys are in flight) are launch options worth setting.
    msa_index_kernel[(triton.cdiv(T * HKV, BLOCK_M),)](iq, ik, cu_q, cu_k, ids, T, HKV=HKV, BLOCK_M=BLOCK_M)
