"""Both operands K-major in shared memory, tiles in groups that share L2, and a space of configurations to tune."""

import triton
import triton.language as tl

TUNE = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128, 256],
    "BLOCK_K": [64, 128],
    "GROUP_M": [1, 8],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3, 4],
}


@triton.jit
def fp8_gemm_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    # GROUP_M rows of tiles are walked together: their programs read the same tiles of B while these are in L2.
    tiles_n = tl.cdiv(N, BLOCK_N)
    per_group = GROUP_M * tiles_n
    group = tl.program_id(0) // per_group
    height = min(tl.cdiv(M, BLOCK_M) - group * GROUP_M, GROUP_M)
    pid_m = group * GROUP_M + (tl.program_id(0) % per_group) % height
    pid_n = (tl.program_id(0) % per_group) // height

    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    # Rows beyond the edge wrap around; what they compute is never stored.
    a_ptrs = a_ptr + (rows % M)[:, None].to(tl.int64) * K + ks[None, :]
    b_ptrs = b_ptr + (cols % N)[:, None].to(tl.int64) * K + ks[None, :]
    tl.assume(K > 0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=ks[None, :] < K - k, other=0.0)
            b = tl.load(b_ptrs, mask=ks[None, :] < K - k, other=0.0)
        acc = tl.dot(a, b.T, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_ptrs = out_ptr + rows[:, None].to(tl.int64) * N + cols[None, :]
    tl.store(out_ptrs, acc.to(tl.bfloat16), mask=(rows[:, None] < M) & (cols[None, :] < N))


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, GROUP_M=8, NUM_WARPS=4, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    fp8_gemm_kernel[grid](
        a, b, scale_a, scale_b, out, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M, EVEN_K=K % BLOCK_K == 0,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
