"""Naive pointers: masked loads of a small tile, and nothing in flight while the tensor cores work."""

from __future__ import annotations

import triton
import triton.language as tl

RUNG = 1
CLASS = "naive"
TUNE = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128],
    "BLOCK_K": [32, 64, 128],
    "NUM_WARPS": [4, 8],
}


@triton.jit
def naive_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows[:, None] < M
    col_mask = cols[None, :] < N
    # 64-bit row offsets: M * K may pass 2**31.
    a_rows = a_ptr + rows[:, None].to(tl.int64) * K
    b_cols = b_ptr + cols[None, :].to(tl.int64) * K

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        ks = k + tl.arange(0, BLOCK_K)
        a = tl.load(a_rows + ks[None, :], mask=row_mask & (ks[None, :] < K), other=0.0)
        b = tl.load(b_cols + ks[:, None], mask=col_mask & (ks[:, None] < K), other=0.0)
        acc += tl.dot(a, b)

    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_ptrs = out_ptr + rows[:, None].to(tl.int64) * N + cols[None, :]
    tl.store(out_ptrs, acc.to(tl.bfloat16), mask=row_mask & col_mask)


def fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, NUM_WARPS=4):
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, BLOCK_M), triton.cdiv(N, BLOCK_N))
    naive_kernel[grid](
        a, b, scale_a, scale_b, out, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        num_warps=NUM_WARPS, num_stages=1,
    )  # fmt: skip
