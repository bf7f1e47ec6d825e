"""TMA descriptors: one thread copies whole tiles, freeing registers and issue slots of address arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 3
CLASS = "tma"
TUNE = {
    "BLOCK_M": [64, 128, 256],
    "BLOCK_N": [64, 128, 256],
    "BLOCK_K": [64, 128],
    "GROUP_M": [4, 8, 16],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3, 4, 5],
}


@triton.jit
def grouped_tile(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Row and column of a tile; GROUP_M rows of tiles are walked together, so that neighbours share A and B in L2."""
    per_group = GROUP_M * tiles_n
    first_m = (tile // per_group) * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    within = tile % per_group
    return first_m + within % rows, within // rows


@triton.jit
def tma_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    row = pid_m * BLOCK_M
    col = pid_n * BLOCK_N

    # No masks: TMA reads zeros beyond a tensor's edge and drops what is stored there.
    # Without the path around a loop of no trips, ptxas keeps every WGMMA of the loop in flight; ptxas 12.8 serialises
    # them otherwise (remark C7515).
    tl.assume(K > 0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        a = a_desc.load([row, k])
        b = b_desc.load([col, k])
        acc = tl.dot(a, b.T, acc)

    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_desc.store([row, col], acc.to(tl.bfloat16))


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, NUM_WARPS=8, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    # TMA wants 16-byte aligned rows: K a multiple of 16, N a multiple of 8.
    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N])
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    tma_kernel[grid](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
