"""How many blocks of a kernel an SM holds, and what limits it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kopt.machine.products import Product

THREADS = 1024
"""Threads a block can have."""
TENSOR_MEMORY = 512
"""Columns of tensor memory on data-centre Blackwell; other architectures have none and need none."""
_PARTITIONS = 4
"""An SM is four parts, each with a quarter of the registers and a warp scheduler of its own."""
_REGISTER_UNIT = 256
"""Registers are handed out to warps in units of this many."""
_RESERVED = 1024
"""Bytes of shared memory per block that the system takes (compute capability 8.0 and up)."""
_SHARED_UNIT = 128


def occupancy(product: Product, *, registers: int, warps: int, shared: int) -> tuple[int, str]:
    """Resident blocks per SM and what limits them; 0 when not even one fits.

    `registers` are per thread, `shared` is in bytes per block, static and dynamic. The arithmetic of CUDA's
    occupancy calculator for compute capability 9.0 and up.
    """
    if shared > product.shared_per_block:
        return 0, "shared memory"
    if warps * 32 > THREADS:
        return 0, "threads"
    per_warp = _up(max(registers, 1) * 32, _REGISTER_UNIT)
    per_partition = product.registers_per_sm // _PARTITIONS // per_warp
    limits = {
        "registers": per_partition * _PARTITIONS // warps,
        "shared memory": product.shared_per_sm // _up(shared + _RESERVED, _SHARED_UNIT),
        "threads": product.threads_per_sm // (warps * 32),
        "blocks": product.blocks_per_sm,
    }
    limit = min(limits, key=lambda name: limits[name])
    return limits[limit], limit


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def fits(product: Product, metadata: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(resource, need, limit) for everything that one block of a kernel needs more of than there is."""
    for what, need, limit in (
        ("shared memory", int(metadata.get("shared") or 0), product.shared_per_block),
        ("tensor memory", int(metadata.get("tmem_size") or 0), TENSOR_MEMORY),
        ("threads", int(metadata.get("num_warps") or 0) * 32, THREADS),
    ):
        if need > limit:
            yield what, need, limit
