"""Gluon: layouts, shared memory and the warp-group MMA by hand. Hopper only."""

from __future__ import annotations

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma


@gluon.jit
def gluon_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr, M, N, K,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
):  # fmt: skip
    load: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [4, 1], [1, 0])
    multiply: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 32])
    shared: gl.constexpr = gl.NVMMASharedLayout(64, 8, 2)
    tiles_n = gl.cdiv(N, BLOCK_N)
    row, col = (gl.program_id(0) // tiles_n) * BLOCK_M, (gl.program_id(0) % tiles_n) * BLOCK_N
    rows = row + gl.arange(0, BLOCK_M, gl.SliceLayout(1, load))
    cols = col + gl.arange(0, BLOCK_N, gl.SliceLayout(1, load))
    ks = gl.arange(0, BLOCK_K, gl.SliceLayout(0, load))
    a_tile = gl.allocate_shared_memory(a_ptr.dtype.element_ty, [BLOCK_M, BLOCK_K], shared)
    b_tile = gl.allocate_shared_memory(b_ptr.dtype.element_ty, [BLOCK_N, BLOCK_K], shared)
    acc = gl.zeros((BLOCK_M, BLOCK_N), gl.float32, multiply)
    for k in range(0, K, BLOCK_K):
        a_tile.store(gl.load(a_ptr + rows[:, None] * K + k + ks[None, :], mask=rows[:, None] < M, other=0.0))
        b_tile.store(gl.load(b_ptr + cols[:, None] * K + k + ks[None, :], mask=cols[:, None] < N, other=0.0))
        fence_async_shared()
        acc = warpgroup_mma(a_tile, b_tile.permute((1, 0)), acc)
    acc = acc * (gl.load(scale_a_ptr) * gl.load(scale_b_ptr))
    out_rows = row + gl.arange(0, BLOCK_M, gl.SliceLayout(1, multiply))
    out_cols = col + gl.arange(0, BLOCK_N, gl.SliceLayout(0, multiply))
    mask = (out_rows[:, None] < M) & (out_cols[None, :] < N)
    gl.store(out_ptr + out_rows[:, None] * N + out_cols[None, :], acc.to(gl.bfloat16), mask=mask)


def fp8_gemm(a, b, scale_a, scale_b, out):
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, 64) * triton.cdiv(N, 128),)
    gluon_kernel[grid](a, b, scale_a, scale_b, out, M, N, K, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64, num_warps=4)
