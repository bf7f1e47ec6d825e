"""Skeleton of an FP8 GEMM: it compiles and launches, and its result is wrong. What is missing is marked TODO."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers worth tuning: the name of a keyword-only parameter of `fp8_gemm`, and the choices to try. May be left out.
TUNE = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128],
    "BLOCK_K": [64, 128],
}


@triton.jit
def fp8_gemm_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # One program computes one [BLOCK_M, BLOCK_N] tile of out.
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    # A and B are both K-major, which is what FP8 tensor cores read. M, N and K need not be multiples of the blocks.
    a_ptrs = a_ptr + rows[:, None].to(tl.int64) * K + ks[None, :]
    b_ptrs = b_ptr + cols[:, None].to(tl.int64) * K + ks[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)

    # TODO: this multiplies the first BLOCK_K columns of A and B; walk over all of K.
    a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
    b = tl.load(b_ptrs, mask=(cols[:, None] < N) & (ks[None, :] < K), other=0.0)
    acc = tl.dot(a, b.T, acc)

    # TODO: multiply by the two scales, which are read on the device: tl.load(scale_a_ptr), tl.load(scale_b_ptr).

    out_ptrs = out_ptr + rows[:, None].to(tl.int64) * N + cols[None, :]
    tl.store(out_ptrs, acc.to(tl.bfloat16), mask=(rows[:, None] < M) & (cols[None, :] < N))


def fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64):
    """out = scale_a * scale_b * (a @ b.T), written in place; returns None.

    a [M, K] and b [N, K] float8_e4m3fn, scale_a and scale_b [1] float32, out [M, N] bfloat16, all contiguous on the
    device. K and N are multiples of 16 and every base is 16-byte aligned; M is anything from 1 up.
    """
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, BLOCK_M), triton.cdiv(N, BLOCK_N))
    # TODO: num_warps (4 or 8) and num_stages (how many K tiles are in flight) are launch options worth setting.
    fp8_gemm_kernel[grid](
        a, b, scale_a, scale_b, out, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
    )  # fmt: skip
