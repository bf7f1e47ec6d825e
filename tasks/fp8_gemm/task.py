"""Hooks of the FP8 GEMM task: inputs, reference, error bound, cost and the vendor library's time to beat."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Dims = dict[str, int]

E4M3_MAX = 448.0

# Operands that belong together: any a with its scale goes with any b with its own.
GROUPS = (("a", "scale_a"), ("b", "scale_b"))
# Rows of out depend on no other rows of a, columns on no other rows of b: a slice can be checked by itself.
SEPARABLE = ("M", "N")

# Hopper's FP8 tensor cores align the products of 32 k's, and the sum so far, to the largest of them and drop what lies
# below 13 fractional bits: sums carry about 14 bits (DeepSeek-V3 technical report, section 3.3.2). Triton's interpreter
# adds in fp32; two of its 24 bits are given to the order of additions, which is the kernel's to choose.
SUM_BITS = {"cuda": 14, "cpu": 22}


def make_inputs(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """a [M, K] and b [N, K] e4m3, scale_a and scale_b [1] fp32, all finite; a seed gives the same bytes on one device.

    In every family scale_a, scale_b and 1 differ, so that a kernel that drops one, or applies one twice, is wrong.
    """
    import torch

    digest = hashlib.sha256(f"{family} {seed}".encode()).digest()
    rng = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    a, b, scale_a, scale_b = FAMILIES[family](dims["M"], dims["N"], dims["K"], rng)
    return {
        "a": a,
        "b": b,
        "scale_a": torch.tensor([scale_a], dtype=torch.float32, device=device),
        "scale_b": torch.tensor([scale_b], dtype=torch.float32, device=device),
    }


def reference(inputs: Tensors, dims: Dims) -> Tensors:
    """out [M, N] float64, of the operands as quantised."""
    import torch

    product = inputs["a"].to(torch.float64) @ inputs["b"].to(torch.float64).T
    return {"out": product * inputs["scale_a"].double() * inputs["scale_b"].double()}


def bound(inputs: Tensors, expected: Tensors, dims: Dims) -> Tensors:
    """Largest error allowed to each element of out, [M, N] float64.

    Rounding to bf16, half a unit in the last of 8 bits; and what `SUM_BITS` loses in the K/32 additions to the
    accumulator and, as a random walk, in K products. What is lost is relative to the largest partial sum. For sums of
    one sign that is the sum S itself; where signs are random it is within four times the root of the sum of squares, in
    any order of additions. The input families keep to these two cases.
    """
    import torch

    # fp32 does for a bound, and so does bf16 where it is faster: squares of e4m3 have eight significant bits.
    on_gpu = inputs["a"].device.type == "cuda"
    a, b = (inputs[name].to(torch.bfloat16 if on_gpu else torch.float32) for name in ("a", "b"))
    scale = inputs["scale_a"].double() * inputs["scale_b"].double()
    if on_gpu:
        # Products are aligned by the exponents as encoded, and that of a subnormal is -6: up to three bits more are
        # lost. Seen on an H200 with cuBLASLt: 1.6 times the bound without this, in subnormal rows only.
        a, b = (torch.where(x == 0, 0.0, x.abs().clamp(min=2.0**-6)) for x in (a, b))
    squares = a.square() @ b.square().T
    size = expected["out"].abs()
    partial = size + 4.0 * squares.double().sqrt() * scale
    k = dims["K"]
    lost = 2.0 ** (1 - SUM_BITS[a.device.type]) * (k / 32 + math.sqrt(k))
    return {"out": 1.01 * 2.0**-8 * size + lost * partial}


def cost(dims: Dims) -> dict[str, float]:
    m, n, k = dims["M"], dims["N"], dims["K"]
    return {"flops": 2.0 * m * n * k, "read": 1.0 * m * k + n * k + 8, "written": 2.0 * m * n}


def baseline(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, out: torch.Tensor
) -> None:  # fmt: skip
    """cuBLASLt with the same fast accumulation."""
    import torch

    torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=out.dtype, use_fast_accum=True, out=out)


Problem = tuple["torch.Tensor", "torch.Tensor", float, float]


def normal(m: int, n: int, k: int, rng: torch.Generator) -> Problem:
    """Activations and weights as they are quantised in practice: a Gaussian whose largest value becomes 448."""
    a, scale_a = _quantised(_randn(m, k, rng))
    b, scale_b = _quantised(_randn(n, k, rng) / math.sqrt(k))
    return a, b, scale_a, scale_b


def integers(m: int, n: int, k: int, rng: torch.Generator) -> Problem:
    """Integers from -r to r and power-of-two scales: every honest kernel gets the same bits.

    Sums of 14 bits are exact while every partial sum stays below 2**13, in any order of additions and with any split of
    K. Products of two uniform integers have variance (r (r + 1) / 3)**2, so a sum over k has a standard deviation of
    sqrt(k) r (r + 1) / 3. r is the largest that keeps it at 128 (and no more than 8): for K up to 32768, 2**12 is then
    passed with a probability under e**-100 per partial sum (Hoeffding, products within r**2). And most results stay
    below 256, up to which bf16 holds every integer: an error of one shows.
    """
    r = max(r for r in range(1, 9) if r == 1 or math.sqrt(k) * r * (r + 1) / 3 <= 128)
    scale_a, scale_b = _choose([(0.125, 2.0), (4.0, 0.03125), (16.0, 0.5), (0.25, 64.0)], rng)
    return _integers(m, k, r, rng), _integers(n, k, r, rng), scale_a, scale_b


def one_hot(m: int, n: int, k: int, rng: torch.Generator) -> Problem:
    """Each row of a picks one column of b, which holds every finite e4m3 value: shows transposes and what was not read.

    Row 0 picks the last k and every other odd row one of the last 16, so that a lost tail of K shows at any M. One
    product of four significant bits per sum: exact in any format.
    """
    import torch

    device = rng.device
    pick = torch.randint(0, k, (m,), generator=rng, device=device)
    tail = k - 1 - torch.randint(0, min(16, k), (m,), generator=rng, device=device)
    pick[1::2] = tail[1::2]
    pick[0] = k - 1
    power = torch.randint(-3, 4, (m,), generator=rng, device=device)
    a = torch.zeros((m, k), device=device)
    a[torch.arange(m, device=device), pick] = torch.exp2(power.float())
    scale_a, scale_b = _choose([(0.5, 4.0), (8.0, 0.25), (2.0, 16.0), (0.0625, 0.5)], rng)
    return _e4m3(a), _any_finite(n, k, rng), scale_a, scale_b


def scales(m: int, n: int, k: int, rng: torch.Generator) -> Problem:
    """Scales from 1e-4 to 1e4, at least a factor of two from 1 and from each other, and so is their product from 1."""
    import torch

    while True:
        x, y = (8.0 * torch.rand(2, generator=rng, device=rng.device) - 4.0).tolist()
        if min(abs(x), abs(y), abs(x - y), abs(x + y)) >= 0.301:
            return _e4m3(_randn(m, k, rng)), _e4m3(_randn(n, k, rng)), 10.0**x, 10.0**y


def adversarial(m: int, n: int, k: int, rng: torch.Generator) -> Problem:
    """Rows of a in turn: saturated; cancelling, so that most of a long sum vanishes; and subnormal.

    b holds powers of two from 2**-6 to 2**8 of either sign, its second half over K repeating the first, so that a row
    of a whose second half is the negative of its first leaves only the last 8 k's. Partial sums reach 448 * 256 *
    sqrt(K), beyond fp16, and outputs span more than six decades.
    """
    import torch

    device = rng.device
    half = k // 2
    b = torch.exp2(torch.randint(-6, 9, (n, k), generator=rng, device=device).float()) * _signs(n, k, rng)
    b[:, half:] = b[:, :half].clone()
    a = E4M3_MAX * _signs(m, k, rng)
    cancelling = _e4m3(_randn(m, k, rng) * 100.0).float()
    cancelling[:, half : k - 8] = -cancelling[:, : half - 8]
    a[1::3] = cancelling[1::3]
    subnormal = torch.randint(1, 8, (m, k), generator=rng, device=device) * 2.0**-9
    a[2::3] = (subnormal * _signs(m, k, rng))[2::3]
    return _e4m3(a), _e4m3(b), 0.0123, 3.7


FAMILIES = {f.__name__: f for f in (normal, integers, one_hot, scales, adversarial)}


def _randn(rows: int, columns: int, rng: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randn((rows, columns), generator=rng, device=rng.device)


def _signs(rows: int, columns: int, rng: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randint(0, 2, (rows, columns), generator=rng, device=rng.device).float() * 2.0 - 1.0


def _e4m3(x: torch.Tensor) -> torch.Tensor:
    import torch

    # The cast itself turns what is beyond 448 into NaN.
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _quantised(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    scale = x.abs().max().item() / E4M3_MAX
    return _e4m3(x / scale), scale


def _integers(rows: int, columns: int, r: int, rng: torch.Generator) -> torch.Tensor:
    import torch

    return _e4m3(torch.randint(-r, r + 1, (rows, columns), generator=rng, device=rng.device).float())


def _any_finite(rows: int, columns: int, rng: torch.Generator) -> torch.Tensor:
    import torch

    # 0x7f and 0xff are the only codes that are no number.
    code = torch.randint(0, 127, (rows, columns), generator=rng, device=rng.device)
    sign = torch.randint(0, 2, (rows, columns), generator=rng, device=rng.device) * 128
    return (code + sign).to(torch.uint8).view(torch.float8_e4m3fn)


def _choose(pairs: list[tuple[float, float]], rng: torch.Generator) -> tuple[float, float]:
    import torch

    return pairs[int(torch.randint(0, len(pairs), (1,), generator=rng, device=rng.device))]
