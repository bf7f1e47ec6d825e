"""Swap-AB for small M: out^T = B @ A^T, so that weights fill the 64 rows of an MMA and M is its narrow side."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 6
CLASS = "swap-ab"
TUNE = {
    "BLOCK_M": [16, 32, 64, 128],
    "BLOCK_N": [64, 128],
    "BLOCK_K": [128, 256],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 4, 6, 8],
}


@triton.jit
def swap_ab_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # M runs fastest: the programs that need the same rows of B, which is the large operand, run side by side.
    tiles_m = tl.cdiv(M, BLOCK_M)
    row = tl.program_id(0) % tiles_m * BLOCK_M
    col = tl.program_id(0) // tiles_m * BLOCK_N

    # Without the path around a loop of no trips, ptxas keeps every WGMMA of the loop in flight; ptxas 12.8 serialises
    # them otherwise (remark C7515).
    tl.assume(K > 0)
    # Hopper and Blackwell have no FP8 MMA with fewer than 64 rows: a [16, K] tile of A on the left would silently be
    # upcast to fp16. On the right it is the MMA's N, which starts at 8.
    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        b = b_desc.load([col, k])
        a = a_desc.load([row, k])
        acc = tl.dot(b, a.T, acc)

    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_desc.store([row, col], acc.to(tl.bfloat16).T)


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=32, BLOCK_N=64, BLOCK_K=128, NUM_WARPS=4, NUM_STAGES=8,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N])
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    swap_ab_kernel[grid](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
