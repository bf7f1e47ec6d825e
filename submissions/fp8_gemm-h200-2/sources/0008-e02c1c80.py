"""Gluon for Hopper: one TMA warp feeds two warp groups of async WGMMA."""

from __future__ import annotations

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.target_info import cuda_capability_geq

RUNG = 8
CLASS = "gluon-ws"
ARCHS = (90,)
TUNE = {
    "BLOCK_M": [128, 256],
    "BLOCK_N": [128, 256],
    "BLOCK_K": [64, 128],
    "GROUP_M": [4, 8, 16],
    "SLICE_N": [32, 64],
    "NUM_STAGES": [3, 4, 5, 6],
}

# Triton 3.9 gave the two copies shorter names and removed the old ones.
tma_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
tma_store = tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global


@gluon.jit
def grouped_tile(tile, tiles_m, tiles_n, GROUP_M: gl.constexpr):
    """Row and column of a tile; GROUP_M rows of tiles are walked together, so that neighbours share A and B in L2."""
    per_group = GROUP_M * tiles_n
    first_m = (tile // per_group) * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    within = tile % per_group
    return first_m + within % rows, within // rows


@gluon.jit
def next_stage(stage, phase, STAGES: gl.constexpr):
    """The stage after this one, and the parity of its barriers, which flips each time around the ring."""
    wraps = stage == STAGES - 1
    return gl.where(wraps, 0, stage + 1), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def previous(stage, STAGES: gl.constexpr):
    """The stage before this one. Not a variable carried beside `stage`: the compiler takes the two for one (3.6)."""
    return gl.where(stage == 0, STAGES - 1, stage - 1)


@gluon.jit
def produce(a_desc, b_desc, a_ring, b_ring, filled, freed, tiles_m, tiles_n, tiles_k, GROUP_M: gl.constexpr):
    """The TMA warp: fills the ring of stages as fast as the consumers free it, without a pause between tiles."""
    STAGES: gl.constexpr = b_ring.shape[0]
    HALF_M: gl.constexpr = a_desc.block_type.shape[0]
    BLOCK_N: gl.constexpr = b_desc.block_type.shape[0]
    BLOCK_K: gl.constexpr = b_desc.block_type.shape[1]
    gl.assume(tiles_k > 0)  # no path around a loop of no trips; said in each role, for it does not reach into them
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    for tile in range(gl.program_id(0), tiles_m * tiles_n, gl.num_programs(0)):
        pid_m, pid_n = grouped_tile(tile, tiles_m, tiles_n, GROUP_M)
        row = pid_m * 2 * HALF_M
        col = pid_n * BLOCK_N
        for i in range(tiles_k):
            # Waiting for the phase before the first returns at once: the ring starts free.
            mbarrier.wait(freed.index(stage), phase ^ 1)
            bar = filled.index(stage)
            mbarrier.expect(bar, 2 * a_desc.block_type.nbytes + b_desc.block_type.nbytes)
            tma_load(a_desc, [row, i * BLOCK_K], bar, a_ring.index(2 * stage))
            tma_load(a_desc, [row + HALF_M, i * BLOCK_K], bar, a_ring.index(2 * stage + 1))
            tma_load(b_desc, [col, i * BLOCK_K], bar, b_ring.index(stage))
            stage, phase = next_stage(stage, phase, STAGES)


@gluon.jit
def store_sliced(out_desc, buffers, row, col, tile, scale, SLICE: gl.constexpr):
    """Store a tile in slices of the descriptor's width through two buffers in turn; SLICE numbers the first of them."""
    M: gl.constexpr = tile.shape[0]
    N: gl.constexpr = tile.shape[1]
    SLICE_N: gl.constexpr = out_desc.block_type.shape[1]
    if N == SLICE_N:
        tma.store_wait(1)  # all but the last store have read their buffer, so this one is free
        buffer = buffers.index(SLICE % 2)
        buffer.store((tile * scale).to(gl.bfloat16))
        fence_async_shared()  # TMA reads through another proxy than the threads' stores
        tma_store(out_desc, [row, col], buffer)
    else:
        # In a WGMMA accumulator the halves are different registers of the same threads: no data moves.
        left, right = gl.split(tile.reshape([M, 2, N // 2]).permute(0, 2, 1))
        store_sliced(out_desc, buffers, row, col, left, scale, SLICE)
        store_sliced(out_desc, buffers, row, col + N // 2, right, scale, SLICE + N // 2 // SLICE_N)


@gluon.jit
def consume(
    out_desc, a_ring, b_ring, buffers, filled, freed, scale, tiles_m, tiles_n, tiles_k,
    GROUP_M: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """A consumer warp group: the upper (HALF 0) or lower (HALF 1) half of every tile."""
    STAGES: gl.constexpr = b_ring.shape[0]
    HALF_M: gl.constexpr = a_ring.shape[1]
    BLOCK_N: gl.constexpr = b_ring.shape[1]
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 256 // a_ring.dtype.primitive_bitwidth]
    )
    gl.assume(tiles_k > 0)
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    for tile in range(gl.program_id(0), tiles_m * tiles_n, gl.num_programs(0)):
        pid_m, pid_n = grouped_tile(tile, tiles_m, tiles_n, GROUP_M)
        acc = gl.zeros((HALF_M, BLOCK_N), gl.float32, layout)
        for i in range(tiles_k):
            mbarrier.wait(filled.index(stage), phase)
            a = a_ring.index(2 * stage + HALF)
            b = b_ring.index(stage).permute((1, 0))
            acc = warpgroup_mma(a, b, acc, is_async=True)
            # With one MMA in flight, the one before has read its stage.
            acc = warpgroup_mma_wait(num_outstanding=1, deps=[acc])
            mbarrier.arrive(freed.index(previous(stage, STAGES)), pred=i > 0)
            stage, phase = next_stage(stage, phase, STAGES)
        acc = warpgroup_mma_wait(num_outstanding=0, deps=[acc])
        mbarrier.arrive(freed.index(previous(stage, STAGES)))

        row = (pid_m * 2 + HALF) * HALF_M
        store_sliced(out_desc, buffers, row, pid_n * BLOCK_N, acc, scale, 0)
    tma.store_wait(0)  # shared memory must outlive the stores that read it


@gluon.jit
def gluon_ws_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    GROUP_M: gl.constexpr, SLICE_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    gl.static_assert(cuda_capability_geq(9) and not cuda_capability_geq(10), "WGMMA exists on Hopper (sm_90) alone")
    gl.static_assert(BLOCK_M * BLOCK_N <= 128 * 256, "a thread has registers for 128 accumulators: 128x256 or 256x128")
    HALF_M: gl.constexpr = BLOCK_M // 2
    # Two stages of A for each of B: each warp group has the half that it multiplies.
    a_ring = gl.allocate_shared_memory(a_desc.dtype, [2 * STAGES, HALF_M, BLOCK_K], a_desc.layout)
    b_ring = gl.allocate_shared_memory(b_desc.dtype, [STAGES, BLOCK_N, BLOCK_K], b_desc.layout)
    upper = gl.allocate_shared_memory(out_desc.dtype, [2, HALF_M, SLICE_N], out_desc.layout)
    lower = gl.allocate_shared_memory(out_desc.dtype, [2, HALF_M, SLICE_N], out_desc.layout)
    filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    freed = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(filled.index(stage), count=1)
        mbarrier.init(freed.index(stage), count=2)
    fence_async_shared()  # TMA signals the barriers through another proxy than the threads that initialised them

    scale = gl.load(scale_a_ptr) * gl.load(scale_b_ptr)
    tiles_m = gl.cdiv(M, BLOCK_M)
    tiles_n = gl.cdiv(N, BLOCK_N)
    tiles_k = gl.cdiv(K, BLOCK_K)
    # Three warp groups of at most 168 registers a thread (65536 / 384); the TMA warp gives most of its own away.
    gl.warp_specialize(
        [
            (consume, (out_desc, a_ring, b_ring, upper, filled, freed, scale, tiles_m, tiles_n, tiles_k, GROUP_M, 0)),
            (consume, (out_desc, a_ring, b_ring, lower, filled, freed, scale, tiles_m, tiles_n, tiles_k, GROUP_M, 1)),
            (produce, (a_desc, b_desc, a_ring, b_ring, filled, freed, tiles_m, tiles_n, tiles_k, GROUP_M)),
        ],
        [4, 1],
        [240, 24],
    )


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, SLICE_N=64, NUM_STAGES=4,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]

    def descriptor(tensor, block, dtype):
        return TensorDescriptor.from_tensor(tensor, block, gl.NVMMASharedLayout.get_default_for(block, dtype))

    a_desc = descriptor(a, [BLOCK_M // 2, BLOCK_K], gl.float8e4nv)
    b_desc = descriptor(b, [BLOCK_N, BLOCK_K], gl.float8e4nv)
    out_desc = descriptor(out, [BLOCK_M // 2, SLICE_N], gl.bfloat16)
    tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    sms = torch.cuda.get_device_properties(a.device).multi_processor_count
    gluon_ws_kernel[(min(sms, tiles),)](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        GROUP_M=GROUP_M, SLICE_N=SLICE_N, STAGES=NUM_STAGES,
        num_warps=4,
    )  # fmt: skip
