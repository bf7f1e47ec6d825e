"""Device descriptors and no allocator, as many programs as the device has SMs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def persistent_kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    a_desc = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    b_desc = tl.make_tensor_descriptor(b_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    out_desc = tl.make_tensor_descriptor(out_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])
    tiles_n = tl.cdiv(N, BLOCK_N)
    scale = tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BLOCK_M) * tiles_n, PROGRAMS):
        row, col = (tile // tiles_n) * BLOCK_M, (tile % tiles_n) * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in range(0, K, BLOCK_K):
            acc = tl.dot(a_desc.load([row, k]), b_desc.load([col, k]).T, acc)
        out_desc.store([row, col], (acc * scale).to(tl.bfloat16))


def fp8_gemm(a, b, scale_a, scale_b, out):
    M, K = a.shape
    N = b.shape[0]
    programs = torch.cuda.get_device_properties(a.device).multi_processor_count
    persistent_kernel[(programs,)](
        a, b, scale_a, scale_b, out, M, N, K,
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, PROGRAMS=programs, num_warps=8, num_stages=3,
    )  # fmt: skip
