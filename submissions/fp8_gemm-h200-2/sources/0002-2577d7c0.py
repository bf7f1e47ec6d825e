"""K-major pointers: several tiles in flight (cp.async), and tiles visited in groups that share L2."""

from __future__ import annotations

import triton
import triton.language as tl

RUNG = 2
CLASS = "k-major"
TUNE = {
    "BLOCK_M": [64, 128, 256],
    "BLOCK_N": [64, 128, 256],
    "BLOCK_K": [64, 128],
    "GROUP_M": [4, 8, 16],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3, 4],
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
def k_major_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    # Rows past the edge wrap around instead of being masked: what they compute is never stored.
    a_ptrs = a_ptr + (rows % M)[:, None].to(tl.int64) * K + ks[None, :]
    b_ptrs = b_ptr + (cols % N)[:, None].to(tl.int64) * K + ks[None, :]

    # Without the path around a loop of no trips, ptxas keeps every WGMMA of the loop in flight; ptxas 12.8 serialises
    # them otherwise (remark C7515).
    tl.assume(K > 0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs)
        else:
            in_k = ks[None, :] < K - k
            a = tl.load(a_ptrs, mask=in_k, other=0.0)
            b = tl.load(b_ptrs, mask=in_k, other=0.0)
        # Hopper's FP8 WGMMA reads both operands K-major. B is loaded the way it lies, and `.T` only relabels the shared
        # tile; loading it as [BLOCK_K, BLOCK_N] from an N-contiguous tensor would transpose it through registers.
        acc = tl.dot(a, b.T, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K

    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_ptrs = out_ptr + rows[:, None].to(tl.int64) * N + cols[None, :]
    tl.store(out_ptrs, acc.to(tl.bfloat16), mask=(rows[:, None] < M) & (cols[None, :] < N))


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, NUM_WARPS=8, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    k_major_kernel[grid](
        a, b, scale_a, scale_b, out, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        GROUP_M=GROUP_M, EVEN_K=K % BLOCK_K == 0,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
