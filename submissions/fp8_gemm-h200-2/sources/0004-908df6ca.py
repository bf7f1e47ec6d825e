"""Persistent TMA: one program per SM walks many tiles; the next tile is fetched while this one is stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 4
CLASS = "tma-persistent"
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
def tma_persistent_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles_k = tl.cdiv(K, BLOCK_K)
    scale = tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    # With no path around an inner loop of no trips, the flattened loop needs only one epilogue.
    tl.assume(tiles_k > 0)
    # `flatten` makes one loop of the two, so that the pipeline of loads does not drain between tiles.
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        pid_m, pid_n = grouped_tile(tile, tiles_m, tiles_n, GROUP_M)
        row = pid_m * BLOCK_M
        col = pid_n * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for i in range(tiles_k):
            a = a_desc.load([row, i * BLOCK_K])
            b = b_desc.load([col, i * BLOCK_K])
            acc = tl.dot(a, b.T, acc)
        out_desc.store([row, col], (acc * scale).to(tl.bfloat16))


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, NUM_WARPS=8, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    properties = torch.cuda.get_device_properties(a.device)
    if (BLOCK_M, BLOCK_N, BLOCK_K) == (128, 256, 128) and properties.shared_memory_per_block_optin < 128 * 1024:
        # At no depth does the default fit a block of sm_120; half of it does.
        BLOCK_N = 128
    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N])
    tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    tma_persistent_kernel[(min(properties.multi_processor_count, tiles),)](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
