"""What the model knows about a GPU beyond its data sheet, with the source of every number.

`FITTED` names those that were adjusted to measured times. A product is calibrated when its own measured times were
among them; on every other product a prediction ranks, and its absolute value is a guess. bench/predict.py compares and
refits.
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
    load_latency: float = 850.0
    """Clocks from asking for a tile to its first bytes when every SM asks at once; the tile's transfer comes on top."""
    turn_latency: float = 1500.0
    """The same for tiles that come by themselves while others are multiplied, with half of the transfer on top."""
    l1_bytes: int = 256 << 10
    """L1 and shared memory of an SM together; what shared memory leaves holds spilled registers."""
    barrier: float = 40.0
    """Clocks of a block-wide barrier with its arrivals."""
    drain: float = 75.0
    """Clocks in which the tensor cores idle when a loop waits for all matrix instructions in flight."""
    bubble: float = 25.0
    """Clocks they idle at a turn of a pipelined loop."""
    serial: float = 64.0
    """Clocks added to a warp-group MMA that waits for the one before."""
    refill: float = 2.75
    """Bytes between L1 and L2 for each byte of a spill that L1 cannot hold: written back and fetched again."""
    overlap: float = 8.0
    """Exponent p of the norm that adds the demands on units that work at the same time; infinity is perfect overlap."""
    start: float = 600.0
    """Clocks from the start of a block to its first full stage of operands."""
    launch_us: float = 2.0
    """From one kernel's end to the first instruction of the next."""
    idle_w: float = 150.0
    """Watts at rest, caches and memory clocked up."""
    flop_pj: float = 0.25
    """Picojoules per FLOP in the matrix units at 1600 MHz, random data."""
    l2_pj: float = 20.0
    """Picojoules per byte from L2."""
    hbm_pj: float = 45.0
    """Picojoules per byte from device memory."""


_SWEEP = "fitted to the H200 sweep in bench/data (families naive, k_major and tma)"
SOURCES: Mapping[str, str] = {
    "l2_tbs": f"{_SWEEP}; the best kernels there move 11.9 TB/s",
    "l2_clock_mhz": "the clock that l2_tbs is given for",
    "l2_port": "64 bytes per clock and SM: DeepGEMM's heuristic for Hopper",
    "shared_port": "CUDA C++ programming guide: 32 banks of 4 bytes per clock",
    "hbm_share": "measured copies reach 4.3 of 4.8 TB/s on an H200",
    "l2_share": "a judgement",
    "mma_sync": "Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024: 62.9 % of peak",
    "ffma": "CUDA C++ programming guide: 128 fused multiply-adds per clock and SM",
    "special": "CUDA C++ programming guide, arithmetic throughput: 16 per clock and SM",
    "schedulers": "CUDA C++ programming guide: four warp schedulers, one instruction per clock each",
    "issue_share": "a judgement: the best hand-written loops fill about that much",
    "lsu": "one warp-wide instruction of 4 bytes a lane fills the 128-byte port",
    "narrow": "a judgement: four lanes share the bank that one 4-byte access would fill",
    "load_latency": f"{_SWEEP}; idle it is about 700",
    "turn_latency": f"{_SWEEP}, and to the run submissions/fp8_gemm-h200: persistent loops of 24 to 40 KB a turn "
    "take 825 to 930 clocks with 3 buffers and 610 to 660 with 4",
    "l1_bytes": "NVIDIA Hopper and Blackwell tuning guides: 256 KB; 128 KB at compute capability 12.0",
    "barrier": "a judgement",
    "drain": f"{_SWEEP}, from the 128 clocks of a 64x256 warp-group MMA (Luo et al. 2024)",
    "bubble": "a judgement",
    "serial": "a judgement; the sweep is indifferent to it",
    "refill": f"{_SWEEP}: 128x256x64 tiles on four warps take 10,000 clocks a step with 1,024 spill instructions",
    "overlap": f"{_SWEEP}; two equal demands cost 9 % more than one",
    "start": f"{_SWEEP}",
    "launch_us": "a judgement: gaps between kernels of one stream are 1 to 3 us",
    "idle_w": "a judgement: H100 SXM boards at rest with full clocks",
    "flop_pj": f"{_SWEEP}: what lets the best kernels run at 1.6 GHz within 700 W",
    "l2_pj": "a judgement, from published picojoules per byte of on-chip transport; with flop_pj the best kernels run "
    "at 1.57 GHz, where 1.53 follow from how active their tensor cores were (kernels/fp8_gemm/published/h200.json)",
    "hbm_pj": "HBM3: 3.9 pJ per bit at the device, and the controller",
}
FITTED: frozenset[str] = frozenset(name for name, source in SOURCES.items() if source.startswith(_SWEEP))
CALIBRATED: frozenset[str] = frozenset({"h200"})
"""Keys of products whose measured times the constants were fitted to."""

_HOPPER = Constants(l2_tbs=13.0)
_BY_ARCH: Mapping[int, Constants] = {
    90: _HOPPER,
    # Two dies; published Triton kernels need more than 13 TB/s to be possible at all.
    100: replace(_HOPPER, l2_tbs=16.0, mma_sync=0.5, l2_clock_mhz=1856.0),
    103: replace(_HOPPER, l2_tbs=16.0, mma_sync=0.5, l2_clock_mhz=1856.0),
    # Only mma.sync, whose rate the data sheet gives; one block of 99 KB per SM.
    120: replace(
        _HOPPER,
        l2_tbs=8.0,
        mma_sync=0.95,
        hbm_share=0.9,
        l2_clock_mhz=2400.0,
        flop_pj=0.6,
        idle_w=100.0,
        l1_bytes=128 << 10,
    ),
}


def constants(product: Product) -> Constants | None:
    """Constants for a product, scaled to its number of SMs; None for an architecture of which nothing is known."""
    found = _BY_ARCH.get(product.arch)
    if found is None or product.arch == 120:
        return found
    reference = 132 if product.arch == 90 else 148
    return replace(found, l2_tbs=found.l2_tbs * product.sms / reference)


def calibrated(product: Product) -> bool:
    return product.key in CALIBRATED
