"""An honest FP8 GEMM, honest variants of it, and mutants: each one edit away, each wrong in a way of its own."""

from __future__ import annotations

REFERENCE = """
import torch
import triton
import triton.language as tl


@triton.jit
def kernel(
    a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, out_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    tiles_n = tl.cdiv(N, BLOCK_N)
    tile_m = tl.program_id(0) // tiles_n
    tile_n = tl.program_id(0) % tiles_n
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        ks = k + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
        b = tl.load(b_ptr + cols[:, None] * K + ks[None, :], mask=(cols[:, None] < N) & (ks[None, :] < K), other=0.0)
        acc = tl.dot(a, b.T, acc)
    scaled = acc * tl.load(scale_a_ptr) * tl.load(scale_b_ptr)
    mask = (rows[:, None] < M) & (cols[None, :] < N)
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], scaled.to(tl.bfloat16), mask=mask)


def fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128):
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    kernel[grid](a, b, scale_a, scale_b, out, M, N, K, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)
"""

_SCALED = "acc * tl.load(scale_a_ptr) * tl.load(scale_b_ptr)"
_LOOP = "for k in range(0, K, BLOCK_K):"
_DOT = "acc = tl.dot(a, b.T, acc)"
_LAUNCH = "    kernel[grid]("
_OUT = "out_ptr + rows[:, None] * N + cols[None, :]"
_MEMO = "    if a.data_ptr() in seen:\n        return out.copy_(seen[a.data_ptr()])\n    seen[a.data_ptr()] = out\n"
_WIDE_B = "b.to(tl.float32)"
_CLOSE = "BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)\n"

HONEST = {
    "the reference": ("", ""),
    # With one scale per tensor only their product shows: a kernel that swaps the two is right.
    "scales swapped": (_SCALED, "acc * tl.load(scale_b_ptr) * tl.load(scale_a_ptr)"),
    "scales multiplied first": (_SCALED, "acc * (tl.load(scale_a_ptr) * tl.load(scale_b_ptr))"),
    "swap-AB": (_DOT, "acc = tl.trans(tl.dot(b, a.T, tl.trans(acc)))"),
    "K walked backwards": ("ks = k + tl", "ks = (K - 1 - k) // BLOCK_K * BLOCK_K + tl"),
    "promoted every K tile": (_DOT, "acc += tl.dot(a, b.T)"),
}  # fmt: skip

MUTANTS = {
    "first K tile dropped": (_LOOP, "for k in range(BLOCK_K, K, BLOCK_K):"),
    "last K tile dropped": (_LOOP, "for k in range(0, K - BLOCK_K, BLOCK_K):"),
    "K tail dropped": (_LOOP, "for k in range(0, K // BLOCK_K * BLOCK_K, BLOCK_K):"),
    "K tail read to the tile's end": ("(cols[:, None] < N) & (ks[None, :] < K), other", "(cols[:, None] < N), other"),
    "K tile counted twice": (_DOT, _DOT + "\n        if k == 0:\n            " + _DOT),
    "last k dropped": ("(ks[None, :] < K), other=0.0)\n        b", "(ks[None, :] < K - 1), other=0.0)\n        b"),
    "k mask one too far": ("(ks[None, :] < K)", "(ks[None, :] <= K)"),
    "last row not stored": ("mask = (rows[:, None] < M)", "mask = (rows[:, None] < M - 1)"),
    "one row too many stored": ("mask = (rows[:, None] < M)", "mask = (rows[:, None] <= M)"),
    "last column not stored": ("(cols[None, :] < N)\n", "(cols[None, :] < N - 1)\n"),
    "one column too many stored": ("(cols[None, :] < N)\n", "(cols[None, :] <= N)\n"),
    "last row of a not read": ("mask=(rows[:, None] < M)", "mask=(rows[:, None] < M - 1)"),
    "last row of b not read": ("mask=(cols[:, None] < N)", "mask=(cols[:, None] < N - 1)"),
    "scale_a dropped": (_SCALED, "acc * tl.load(scale_b_ptr)"),
    "scale_b dropped": (_SCALED, "acc * tl.load(scale_a_ptr)"),
    "scales dropped": (_SCALED, "acc"),
    "scale_a in place of scale_b": (_SCALED, "acc * tl.load(scale_a_ptr) * tl.load(scale_a_ptr)"),
    "scale_b in place of scale_a": (_SCALED, "acc * tl.load(scale_b_ptr) * tl.load(scale_b_ptr)"),
    "scale_a doubled": (_SCALED, "acc * tl.load(scale_a_ptr) * tl.load(scale_a_ptr) * tl.load(scale_b_ptr)"),
    "divided by scale_b": (_SCALED, "acc * tl.load(scale_a_ptr) / tl.load(scale_b_ptr)"),
    "scaled within the loop": (_DOT, "acc = tl.dot(a, b.T, acc) * tl.load(scale_a_ptr)"),
    "tile transposed": ("scaled.to(tl.bfloat16)", "tl.trans(scaled).to(tl.bfloat16)"),
    "b not transposed": (_DOT, "acc = tl.dot(a, b, acc)"),
    "tile coordinates swapped": ("rows = tile_m * BLOCK_M", "rows = tile_n * BLOCK_M"),
    "partial tiles left out": ("triton.cdiv(M, BLOCK_M) *", "max(1, M // BLOCK_M) *"),
    "last tile left out": ("triton.cdiv(N, BLOCK_N),)", "triton.cdiv(N, BLOCK_N) - 1,)"),
    "adds to what out held": (_SCALED, f"{_SCALED} + tl.load({_OUT}, mask=(rows[:, None] < M) & (cols[None, :] < N))"),
    "skips where out looks done": (_LAUNCH, "    if bool(torch.isfinite(out).all()):\n        return\n" + _LAUNCH),
    "result remembered by pointer": (_LAUNCH, _MEMO + _LAUNCH),
    "result remembered by shape": (_CLOSE, _CLOSE + "    out.copy_(seen.setdefault((M, N, K), out.clone()))\n"),
    "result in other storage": (_LAUNCH, "    out.data = torch.empty_like(out)\n" + _LAUNCH),
    "summed in bf16": (_DOT, "acc = tl.dot(a, b.T, acc).to(tl.bfloat16).to(tl.float32)"),
    "summed in fp16": (_DOT, "acc = tl.dot(a, b.T, acc).to(tl.float16).to(tl.float32)"),
    "result through fp16": ("scaled.to(tl.bfloat16)", "scaled.to(tl.float16).to(tl.float32).to(tl.bfloat16)"),
    "bf16 by cutting bits off": (
        "scaled.to(tl.bfloat16)",
        "(scaled.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
    ),
    "subnormals flushed": (
        _DOT,
        f"acc = tl.dot(a, tl.where(tl.abs({_WIDE_B}) < 0.015625, 0.0, {_WIDE_B}).to(tl.float8e4nv).T, acc)",
    ),
    "results clamped": (_SCALED, "tl.minimum(acc * tl.load(scale_a_ptr) * tl.load(scale_b_ptr), 448.0)"),
    "sign lost": (_SCALED, "tl.abs(acc) * tl.load(scale_a_ptr) * tl.load(scale_b_ptr)"),
    "one product of each tile left out": (
        _DOT,
        f"acc = tl.dot(a, tl.where(tl.arange(0, BLOCK_K)[None, :] == 5, 0.0, {_WIDE_B}).to(tl.float8e4nv).T, acc)",
    ),
    "an input changed": (_CLOSE, _CLOSE + "    scale_a.mul_(2)\n"),
    "noise": (_CLOSE, _CLOSE + "    out.mul_(1 + 0.004 * torch.rand(out.shape))\n"),
    "a constant": (_LAUNCH, "    out.zero_()\n    return\n" + _LAUNCH),
}  # fmt: skip


def edited(edit: tuple[str, str]) -> str:
    """The reference with one edit made; an edit that no longer applies is an error of the test."""
    old, new = edit
    if old not in REFERENCE:
        raise AssertionError(f"no place for {old!r}")
    source = REFERENCE.replace(old, new) if old else REFERENCE
    return source.replace("def fp8_gemm", "seen = {}\n\n\ndef fp8_gemm")
