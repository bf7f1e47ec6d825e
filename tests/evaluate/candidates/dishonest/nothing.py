"""Does nothing, beautifully."""

from __future__ import annotations


def fp8_gemm(a, b, scale_a, scale_b, out):
    out.zero_()
