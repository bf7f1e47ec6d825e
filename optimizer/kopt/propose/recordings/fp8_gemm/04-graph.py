"""The TMA kernel, its launch captured once for each set of buffers and replayed: one call of the host, not ten."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def fp8_gemm_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    per_group = GROUP_M * tiles_n
    group = tl.program_id(0) // per_group
    height = min(tl.cdiv(M, BLOCK_M) - group * GROUP_M, GROUP_M)
    row = (group * GROUP_M + (tl.program_id(0) % per_group) % height) * BLOCK_M
    col = (tl.program_id(0) % per_group) // height * BLOCK_N
    tl.assume(K > 0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        # Beyond the edges a descriptor reads zeros, and drops what is stored there.
        a = a_desc.load([row, k])
        b = b_desc.load([col, k])
        acc = tl.dot(a, b.T, acc)
    acc *= tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    out_desc.store([row, col], acc.to(tl.bfloat16))


# Graphs by the buffers they read and write. A replay computes from what the buffers hold then; nothing is remembered.
GRAPHS = {}


def launch(a, b, scale_a, scale_b, out, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, NUM_WARPS, NUM_STAGES):
    M, K = a.shape
    N = b.shape[0]
    a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [BLOCK_N, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N])
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    fp8_gemm_kernel[grid](
        a_desc, b_desc, scale_a, scale_b, out_desc, M, N, K,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip


def fp8_gemm(
    a, b, scale_a, scale_b, out, *,
    BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, NUM_WARPS=8, NUM_STAGES=3,
):  # fmt: skip
    options = (BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, NUM_WARPS, NUM_STAGES)
    tensors = (a, b, scale_a, scale_b, out)
    key = (tuple((t.data_ptr(), tuple(t.shape)) for t in tensors), options)
    if key in GRAPHS:
        GRAPHS[key][0].replay()
        return
    launch(*tensors, *options)  # this call's result; it also compiles, which must not happen during the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(*tensors, *options)
    # The tensors are kept, so that their memory is not given to others while the graph may write to it.
    GRAPHS[key] = (graph, tensors)
