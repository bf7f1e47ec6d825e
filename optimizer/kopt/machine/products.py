"""GPU products, one row each with the source of every peak. An unknown GPU has no peak: no number is guessed.

Peaks are dense (no structured sparsity), in TFLOPS. They belong to products, not to compute capabilities: an H20 and an
H200 share cc 9.0 and differ by 6.7x, a GeForce and an RTX PRO of cc 12.0 by 2x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kopt.errors import UsageError


@dataclass(frozen=True)
class Product:
    """What one product can do. Bytes are bytes, bandwidth is TB/s (1e12), clocks are MHz."""

    key: str
    name: str
    arch: int
    """Compute capability as an integer: 90, 100, 103, 120."""
    sms: int
    clock_mhz: float
    """SM clock at which `peaks` hold."""
    max_clock_mhz: float
    peaks: Mapping[str, float]
    """Dense TFLOPS from the data sheet, by kind: "fp8", "bf16"."""
    flops_per_clock: Mapping[str, int]
    """Dense FLOPs per clock and SM (a fused multiply-add is two), for the peak at a sampled clock."""
    hbm_tbs: float
    l2_bytes: int
    power_w: float
    source: str
    """Where the numbers come from."""
    matches: str
    """Regular expression for the name that NVML reports."""
    shared_per_block: int = 232448
    shared_per_sm: int = 233472
    registers_per_sm: int = 65536
    threads_per_sm: int = 2048
    blocks_per_sm: int = 32
    aliases: tuple[str, ...] = field(default=())

    def peak(self, kind: str) -> float | None:
        """Data-sheet TFLOPS for a kind of arithmetic, or None when the product has no such number."""
        return self.peaks.get(kind)

    def peak_at(self, kind: str, clock_mhz: float) -> float | None:
        """TFLOPS that the matrix units could do at this SM clock, or None when the rate is unknown."""
        rate = self.flops_per_clock.get(kind)
        return None if rate is None else self.sms * rate * clock_mhz * 1e6 / 1e12


_HOPPER = {"fp8": 8192, "bf16": 4096}
_BLACKWELL = {"fp8": 16384, "bf16": 8192}
_MB = 1 << 20
_HOPPER_SHEET = "NVIDIA H100/H200 data sheet, dense; 132 SMs x 8192 FLOP/clk x 1830 MHz = 1979 TFLOPS"


def _sm120(row: Product) -> Product:
    """Limits of compute capability 12.0, CUDA C++ Programming Guide."""
    return replace(row, shared_per_block=101376, shared_per_sm=102400, threads_per_sm=1536, blocks_per_sm=24)


PRODUCTS: tuple[Product, ...] = (
    Product(
        "h100-pcie", "NVIDIA H100 PCIe", 90, 114, 1620, 1755, {"fp8": 1513, "bf16": 756}, _HOPPER, 2.0, 50 * _MB, 350,
        "NVIDIA H100 PCIe data sheet; 114 SMs x 8192 x 1620 MHz", r"H100 PCIe",
    ),
    Product(
        "h100-nvl", "NVIDIA H100 NVL", 90, 132, 1545, 1785, {"fp8": 1671, "bf16": 835}, _HOPPER, 3.9, 50 * _MB, 400,
        "NVIDIA H100 NVL data sheet; clock back-computed", r"H100 NVL",
    ),
    Product(
        "h200-nvl", "NVIDIA H200 NVL", 90, 132, 1545, 1785, {"fp8": 1671, "bf16": 835}, _HOPPER, 4.8, 50 * _MB, 600,
        "NVIDIA H200 NVL data sheet; clock back-computed", r"H200 NVL",
    ),
    Product(
        "gh200", "NVIDIA GH200", 90, 132, 1830, 1980, {"fp8": 1979, "bf16": 989.5}, _HOPPER, 4.0, 50 * _MB, 900,
        _HOPPER_SHEET, r"GH200",
    ),
    Product(
        "h200", "NVIDIA H200", 90, 132, 1830, 1980, {"fp8": 1979, "bf16": 989.5}, _HOPPER, 4.8, 50 * _MB, 700,
        _HOPPER_SHEET, r"H200",
    ),
    Product(
        "h800", "NVIDIA H800", 90, 132, 1830, 1980, {"fp8": 1979, "bf16": 989.5}, _HOPPER, 3.35, 50 * _MB, 700,
        "As the H100 SXM (interconnect differs)", r"H800(?! PCIe)",
    ),
    Product(
        "h20", "NVIDIA H20", 90, 78, 1853, 1980, {"fp8": 296, "bf16": 148}, {"fp8": 2048, "bf16": 1024}, 4.0, 60 * _MB,
        500, "NVIDIA H20 data sheet; rate per SM inferred from it", r"H20(?!0)",
    ),
    Product(
        "h100", "NVIDIA H100 SXM", 90, 132, 1830, 1980, {"fp8": 1979, "bf16": 989.5}, _HOPPER, 3.35, 50 * _MB, 700,
        _HOPPER_SHEET, r"H100 80GB HBM3|H100 SXM", aliases=("h100-sxm",),
    ),
    Product(
        "gb200", "NVIDIA GB200", 100, 148, 2062, 2062, {"fp8": 5000, "bf16": 2500}, _BLACKWELL, 8.0, 126 * _MB, 1200,
        "NVIDIA GB200 data sheet, dense; 148 SMs (one NVIDIA table says 152)", r"GB200",
    ),
    Product(
        "b200", "NVIDIA B200", 100, 148, 1856, 1965, {"fp8": 4500, "bf16": 2250}, _BLACKWELL, 8.0, 126 * _MB, 1000,
        "NVIDIA B200 data sheet, dense; clock back-computed", r"(?<!G)B200",
    ),
    Product(
        "b100", "NVIDIA B100", 100, 148, 1443, 1965, {"fp8": 3500, "bf16": 1750}, _BLACKWELL, 8.0, 126 * _MB, 700,
        "NVIDIA B100 data sheet, dense; clock back-computed", r"B100",
    ),
    Product(
        "b300", "NVIDIA B300", 103, 148, 1856, 2032, {"fp8": 4500, "bf16": 2250}, _BLACKWELL, 8.0, 126 * _MB, 1400,
        "NVIDIA B300 data sheet, dense (4500 to 5000 by source; the lower is used)", r"B300",
    ),
    _sm120(Product(
        "rtx-5090", "NVIDIA GeForce RTX 5090", 120, 170, 2407, 2407, {"fp8": 419, "bf16": 209.5},
        {"fp8": 1024, "bf16": 512}, 1.79, 96 * _MB, 575, "NVIDIA Blackwell GeForce white paper, fp32 accumulation",
        r"RTX 5090(?! Laptop| D)",
    )),
    _sm120(Product(
        "rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell", 120, 188, 2617, 2617, {"fp8": 1007.6, "bf16": 503.8},
        {"fp8": 2048, "bf16": 1024}, 1.79, 128 * _MB, 600, "NVIDIA RTX PRO 6000 Blackwell data sheet, dense",
        r"RTX PRO 6000",
    )),
)  # fmt: skip

DEFAULT_TARGET = "h200"


def product(key: str) -> Product:
    """The product with this key or alias; UsageError lists the known ones."""
    wanted = key.lower().replace("_", "-").removeprefix("nvidia-")
    for row in PRODUCTS:
        if wanted == row.key or wanted in row.aliases:
            return row
    known = ", ".join(sorted(row.key for row in PRODUCTS))
    raise UsageError(f"unknown target {key!r}; kopt knows {known}")


def match(name: str) -> Product | None:
    """The product that NVML's name stands for, or None: an unknown GPU has no peak."""
    return next((row for row in PRODUCTS if re.search(row.matches, name)), None)
