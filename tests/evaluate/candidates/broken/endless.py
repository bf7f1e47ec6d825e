"""A host function that never returns."""

from __future__ import annotations


def fp8_gemm(a, b, scale_a, scale_b, out):
    while True:
        pass
