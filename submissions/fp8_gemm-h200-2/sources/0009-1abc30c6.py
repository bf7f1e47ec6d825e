"""Split-K for few tiles and long K: programs share a tile's K range; partial sums are added in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

RUNG = 7
CLASS = "split-k"
TUNE = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128, 256],
    "BLOCK_K": [64, 128],
    "SPLIT_K": [2, 4, 8, 16],
    "GROUP_M": [4, 8],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3, 4],
}
REDUCE_BLOCK = 1024  # elements per program of the reduction: 128 threads, 8 elements (16 bytes of bf16) each


@triton.jit
def grouped_tile(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Row and column of a tile; GROUP_M rows of tiles are walked together, so that neighbours share A and B in L2."""
    per_group = GROUP_M * tiles_n
    first_m = (tile // per_group) * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    within = tile % per_group
    return first_m + within % rows, within // rows


@triton.jit
def split_k_kernel(
    a_desc, b_desc, partial_ptr,
    M, N, K, steps_per_split,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    split = tl.program_id(1)
    row = pid_m * BLOCK_M
    col = pid_n * BLOCK_N
    first = split * steps_per_split
    last = min(first + steps_per_split, tl.cdiv(K, BLOCK_K))

    # The host leaves no split empty. Without the path around a loop of no trips, ptxas keeps every WGMMA of the loop in
    # flight; ptxas 12.8 serialises them otherwise (remark C7515).
    tl.assume(first < last)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(first, last):
        a = a_desc.load([row, i * BLOCK_K])
        b = b_desc.load([col, i * BLOCK_K])
        acc = tl.dot(a, b.T, acc)

    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)
    # 64-bit: the partial sums of all splits may pass 2**31 elements.
    ptrs = partial_ptr + (split.to(tl.int64) * M + rows)[:, None] * N + cols[None, :]
    tl.store(ptrs, acc, mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def reduce_kernel(partial_ptr, scale_a_ptr, scale_b_ptr, out_ptr, size, splits, BLOCK: tl.constexpr):
    # The order of the sum is fixed, so equal inputs give equal bits, which atomic additions would not.
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(splits):
        acc += tl.load(partial_ptr + offs, mask=mask, other=0.0)
        partial_ptr += size
    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    tl.store(out_ptr + offs, acc.to(tl.bfloat16), mask=mask)


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, SPLIT_K=4, GROUP_M=8, NUM_WARPS=4, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    steps = triton.cdiv(K, BLOCK_K)
    steps_per_split = triton.cdiv(steps, SPLIT_K)
    splits = triton.cdiv(steps, steps_per_split)  # fewer than SPLIT_K where that would leave one empty
    partial = torch.empty((splits, M, N), dtype=torch.float32, device=a.device)

    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    split_k_kernel[(triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N), splits)](
        a_desc, b_desc, partial, M, N, K, steps_per_split,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    reduce_kernel[(triton.cdiv(M * N, REDUCE_BLOCK),)](
        partial, scale_a, scale_b, out, M * N, splits, BLOCK=REDUCE_BLOCK,
    )  # fmt: skip
