"""Descriptors whose rows are not multiples of 16 bytes, because its pre-hook says so."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


def set_blocks(args):
    args["a_desc"].strides = [args["K"] - 8, 1]
    args["a_desc"].block_shape = [args["BLOCK_M"], args["BLOCK_K"]]
    args["b_desc"].block_shape = [args["BLOCK_N"], args["BLOCK_K"]]
    args["out_desc"].block_shape = [args["BLOCK_M"], args["BLOCK_N"]]


CONFIGS = [
    triton.Config({"BLOCK_M": 128, "BLOCK_N": n, "BLOCK_K": 64}, num_warps=8, num_stages=3, pre_hook=set_blocks)
    for n in (128, 256)
]


@triton.autotune(configs=CONFIGS, key=["M", "N", "K"])
@triton.jit
def tma_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row, col = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        acc = tl.dot(a_desc.load([row, k]), b_desc.load([col, k]).T, acc)
    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_desc.store([row, col], acc.to(tl.bfloat16))


def fp8_gemm(a, b, scale_a, scale_b, out):
    M, K = a.shape
    N = b.shape[0]
    descriptors = [TensorDescriptor.from_tensor(t, [1, 16]) for t in (a, b, out)]

    def grid(meta):
        return (triton.cdiv(M, meta["BLOCK_M"]), triton.cdiv(N, meta["BLOCK_N"]))

    tma_kernel[grid](descriptors[0], descriptors[1], scale_a, scale_b, descriptors[2], M, N, K)
