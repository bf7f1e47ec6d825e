"""What the model knows about a GPU beyond its data sheet, with the source of every number.

`FITTED` names those that were adjusted to published or measured times. A product is calibrated when its own measured
times were among them; on every other product a prediction ranks, and its absolute value is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kopt.machine.products import Product


@dataclass(frozen=True)
class Constants:
    """Clocks are SM clocks; every rate is per SM unless it says otherwise."""

    l2_tbs: float
    """Bytes between L2 and all SMs, TB/s at `l2_clock_mhz`; it scales with the SM clock."""
    l2_clock_mhz: float = 1755.0
    l2_port: float = 64.0
    """Bytes per clock that one SM can take from the L2."""
    shared_port: float = 128.0
    """Bytes per clock of shared memory."""
    hbm_share: float = 0.92
    """Of the data-sheet bandwidth that large transfers reach."""
    l2_share: float = 0.8
    """Of the L2 that holds operands across waves before streaming evicts them."""
    mma_sync: float = 0.62
    """Rate of HMMA and QMMA through registers, relative to the data-sheet rate, where warp-group MMA exists."""
    ffma: float = 256.0
    """FLOPs per clock on CUDA cores."""
    special: float = 16.0
    """exp2, log2, reciprocal, square root per clock."""
    schedulers: float = 4.0
    issue_share: float = 0.85
    """Of the issue slots that a kernel fills."""
    lsu: float = 1.0
    """Shared-memory and global instructions of a warp per clock."""
    narrow: float = 4.0
    """Slots that a one- or two-byte access through shared memory takes."""
    l2_latency: float = 280.0
    """Clocks from an L2 hit to its use."""
    hbm_latency: float = 700.0
    """Clocks from an L2 miss to its use."""
    barrier: float = 40.0
    """Clocks of a block-wide barrier with its arrivals."""
    drain: float = 140.0
    """Clocks in which the tensor cores idle when a loop waits for all matrix instructions in flight."""
    bubble: float = 25.0
    """Clocks they idle at a turn of a pipelined loop."""
    serial: float = 64.0
    """Clocks added to a warp-group MMA that waits for the one before."""
    overlap: float = 5.0
    """Exponent p of the norm that adds the demands on units that work at the same time; infinity is perfect overlap."""
    start: float = 1500.0
    """Clocks from the start of a block to its first full stage of operands."""
    launch_us: float = 2.5
    """From one kernel's end to the first instruction of the next."""
    idle_w: float = 150.0
    """Watts at rest, caches and memory clocked up."""
    flop_pj: float = 0.30
    """Picojoules per FLOP in the matrix units at 1600 MHz, random data."""
    l2_pj: float = 25.0
    """Picojoules per byte from L2."""
    hbm_pj: float = 45.0
    """Picojoules per byte from device memory."""


SOURCES: Mapping[str, str] = {
    "l2_tbs": "FP8 GEMM at 4096x4096x4096, Triton, H100: 1190 to 1214 TFLOPS (tritonbench pull request 1149)",
    "l2_port": "64 bytes per clock and SM: DeepGEMM's Hopper heuristic; NVIDIA forum answers on the crossbar",
    "shared_port": "CUDA C++ programming guide: 32 banks of 4 bytes per clock",
    "hbm_share": "measured copies reach 4.3 of 4.8 TB/s on an H200 and 3.0 of 3.35 on an H100",
    "mma_sync": "Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024: 62.9 % of peak",
    "special": "CUDA C++ programming guide, arithmetic throughput: 16 per clock and SM",
    "ffma": "CUDA C++ programming guide: 128 fused multiply-adds per clock and SM",
    "schedulers": "CUDA C++ programming guide: four warp schedulers, one instruction per clock each",
    "l2_latency": "Luo et al. 2024: 260 to 280 clocks for an L2 hit on an H100",
    "hbm_latency": "Chips and Cheese, H100: 660 to 740 clocks",
    "narrow": "naive FP8 GEMM reaches 7 to 10 % of peak; half of that was predicted without it",
    "launch_us": "CUDA graph kernel-to-kernel gaps of 1 to 3 us",
    "issue_share": "a judgement: the best hand-written loops fill about that much",
    "l2_share": "a judgement",
    "lsu": "one warp-wide instruction of 4 bytes a lane fills the 128-byte port",
    "barrier": "a judgement",
    "drain": "latency of a 64x256 warp-group MMA (Luo et al. 2024: about 128 clocks) and the wait",
    "bubble": "a judgement",
    "serial": "a judgement",
    "overlap": "a judgement: two equal demands cost 15 % more than one",
    "start": "block launch, descriptor fetch and one round trip to memory",
    "idle_w": "a judgement: H100 SXM boards at rest with full clocks",
    "flop_pj": "a judgement: 700 W at about 1.5 GHz and 1400 TFLOPS",
    "l2_pj": "a judgement, from published picojoules per byte of on-chip transport",
    "hbm_pj": "HBM3: 3.9 pJ per bit at the device, and the controller",
    "l2_clock_mhz": "the clock that l2_tbs is given for",
}
FITTED: frozenset[str] = frozenset({"l2_tbs", "narrow", "drain", "serial"})
CALIBRATED: frozenset[str] = frozenset()
"""Keys of products whose measured times the constants were fitted to."""

_HOPPER = Constants(l2_tbs=8.8)
_BY_ARCH: Mapping[int, Constants] = {
    90: _HOPPER,
    # Two dies; published Triton kernels need more than 13 TB/s to be possible at all.
    100: replace(_HOPPER, l2_tbs=16.0, mma_sync=0.5, l2_latency=350.0, hbm_latency=800.0, l2_clock_mhz=1856.0),
    103: replace(_HOPPER, l2_tbs=16.0, mma_sync=0.5, l2_latency=350.0, hbm_latency=800.0, l2_clock_mhz=1856.0),
    # Only mma.sync, whose rate the data sheet gives; one block of 99 KB per SM.
    120: replace(_HOPPER, l2_tbs=8.0, mma_sync=0.95, hbm_share=0.9, l2_clock_mhz=2400.0, flop_pj=0.6, idle_w=100.0),
}


def constants(product: Product) -> Constants | None:
    """The model's constants for a product, scaled to its number of SMs; None for an architecture it knows nothing of."""
    found = _BY_ARCH.get(product.arch)
    if found is None or product.arch == 120:
        return found
    reference = 132 if product.arch == 90 else 148
    return replace(found, l2_tbs=found.l2_tbs * product.sms / reference)


def calibrated(product: Product) -> bool:
    return product.key in CALIBRATED
