"""A persistent kernel: one program an SM walks over tiles; loads of the next start during this one's epilogue."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

TUNE = {
    "BLOCK_M": [128, 256],
    "BLOCK_N": [128, 256],
    "BLOCK_K": [64, 128],
    "GROUP_M": [4, 8, 16],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [3, 4],
}


@triton.jit
def fp8_gemm_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles = tl.cdiv(M, BLOCK_M) * tiles_n
    steps = tl.cdiv(K, BLOCK_K)
    per_group = GROUP_M * tiles_n
    scale = tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    tl.assume(steps > 0)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        group = tile // per_group
        height = min(tl.cdiv(M, BLOCK_M) - group * GROUP_M, GROUP_M)
        row = (group * GROUP_M + (tile % per_group) % height) * BLOCK_M
        col = (tile % per_group) // height * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            a = a_desc.load([row, step * BLOCK_K])
            b = b_desc.load([col, step * BLOCK_K])
            acc = tl.dot(a, b.T, acc)
        out_desc.store([row, col], (acc * scale).to(tl.bfloat16))


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, NUM_WARPS=8, NUM_STAGES=3,
):  # fmt: skip
    M, K = a.shape
    N = b.shape[0]
    properties = torch.cuda.get_device_properties(a.device)
    if properties.shared_memory_per_block_optin < 128 * 1024:
        BLOCK_N = min(BLOCK_N, 128)  # what a block of sm_120 holds
    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N])
    tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    programs = min(tiles, properties.multi_processor_count)
    fp8_gemm_kernel[(programs,)](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
