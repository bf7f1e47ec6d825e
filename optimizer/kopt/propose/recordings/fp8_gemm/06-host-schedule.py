"""The schedule is the host's: it lays out the work for each shape; the kernel, its epilogue in slices, follows it."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def halves(tile):
    """Left and right half: different registers of the same threads."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    return tl.split(tile.reshape(rows, 2, half).permute(0, 2, 1))


@triton.jit
def fp8_gemm_kernel(
    a_desc, b_desc, scale_a_ptr, scale_b_ptr, out_desc,
    tiles, rows_of_tiles, columns_of_tiles, steps, group_m,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    per_group = group_m * columns_of_tiles
    scale = tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    tl.assume(steps > 0)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        group = tile // per_group
        height = min(rows_of_tiles - group * group_m, group_m)
        row = (group * group_m + (tile % per_group) % height) * BLOCK_M
        col = (tile % per_group) // height * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            a = a_desc.load([row, step * BLOCK_K])
            b = b_desc.load([col, step * BLOCK_K])
            acc = tl.dot(a, b.T, acc)
        # Half a tile at a time: the shared memory that this saves holds a fourth stage of the pipeline.
        left, right = halves(acc * scale)
        out_desc.store([row, col], left.to(tl.bfloat16))
        out_desc.store([row, col + BLOCK_N // 2], right.to(tl.bfloat16))


def schedule(M, N, sms):
    """Tile and group for a shape: the tile whose waves waste the least, then the group whose window is squarest."""
    choices = []
    for block_m, block_n in ((128, 256), (128, 128)):
        tiles = triton.cdiv(M, block_m) * triton.cdiv(N, block_n)
        waves = triton.cdiv(tiles, sms)
        # Work of all waves at full width over the work there is; small tiles also read A and B more often.
        waste = waves * sms * block_m * block_n / max(1, M * N)
        reread = (1 / block_m + 1 / block_n) * 85.0
        choices.append((waste * max(1.0, reread**0.5), block_m, block_n))
    _, block_m, block_n = min(choices)
    rows_of_tiles = triton.cdiv(M, block_m)
    group = max(1, min(rows_of_tiles, round((sms * block_n / block_m) ** 0.5)))
    return block_m, block_n, group


def fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_K=128, NUM_WARPS=8, NUM_STAGES=4):
    M, K = a.shape
    N = b.shape[0]
    properties = torch.cuda.get_device_properties(a.device)
    sms = properties.multi_processor_count
    block_m, block_n, group = schedule(M, N, sms)
    if properties.major == 10:
        NUM_WARPS = 4  # the halves of a tile belong to the same warps then, and are not exchanged
    elif properties.shared_memory_per_block_optin < 128 * 1024:
        block_n, NUM_STAGES = 128, min(NUM_STAGES, 3)  # what a block of sm_120 holds
    a_desc = TensorDescriptor.from_tensor(a, [block_m, BLOCK_K])
    b_desc = TensorDescriptor.from_tensor(b, [block_n, BLOCK_K])
    out_desc = TensorDescriptor.from_tensor(out, [block_m, block_n // 2])
    rows_of_tiles, columns_of_tiles = triton.cdiv(M, block_m), triton.cdiv(N, block_n)
    tiles = rows_of_tiles * columns_of_tiles
    fp8_gemm_kernel[(min(tiles, sms),)](
        a_desc, b_desc, scale_a, scale_b, out_desc,
        tiles, rows_of_tiles, columns_of_tiles, triton.cdiv(K, BLOCK_K), group,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=BLOCK_K,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
