"""Skeleton: it launches, and its result is wrong."""

import triton
import triton.language as tl


@triton.jit
def axpy_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n)
    # TODO: add y
    tl.store(out_ptr + offsets, 2.0 * x, mask=offsets < n)


def axpy(x, y, out, *, BLOCK=256):
    n = x.numel()
    axpy_kernel[(triton.cdiv(n, BLOCK),)](x, y, out, n, BLOCK=BLOCK)
