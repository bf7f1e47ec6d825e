"""What a launch on a GPU checks and the stub does not: grid, TMA descriptors, scratch memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kopt.evaluate.compilation import Compiled
from kopt.evaluate.occupancy import fits
from kopt.machine.products import Product

_GRID = (2**31 - 1, 65535, 65535)
_BOX = 256
"""Elements a TMA box may have in each dimension."""


def violations(launch: Mapping[str, Any], compiled: Compiled, product: Product) -> Iterator[tuple[str, str]]:
    """(rule, message) for everything that would make this launch fail on the product."""
    name = launch["name"]
    for axis, size, most in zip("xyz", launch["grid"], _GRID, strict=True):
        if size > most:
            yield "launch.grid", f"{name}: grid {axis} = {size}, above CUDA's limit of {most}"
    for what, got, limit in fits(product, compiled.metadata):
        yield f"launch.{what.replace(' ', '_')}", f"{name}: needs {got} of {what}; {product.name} has {limit}"
    if (compiled.metadata.get("global_scratch_size") or 0) > 0 and not launch["allocator"]:
        yield "launch.allocator", f"{name}: needs scratch memory, but triton.set_allocator() was not called"
    yield from _descriptors(launch, compiled)


def _descriptors(launch: Mapping[str, Any], compiled: Compiled) -> Iterator[tuple[str, str]]:
    name = launch["name"]
    boxes = compiled.metadata.get("tensordesc_meta") or []
    for number, descriptor in enumerate(launch["descriptors"]):
        if number >= len(boxes) or boxes[number] is None:
            continue  # lowered to plain pointers: no TMA, none of its rules
        size = int(descriptor["itemsize"])
        which = f"{name}: descriptor {number + 1}"
        if any(extent > _BOX for extent in boxes[number].get("block_size", ())):
            yield (
                "launch.tma_box",
                f"{which}: box {boxes[number]['block_size']}, above TMA's limit of {_BOX} per dimension",
            )
        if descriptor["address"] % 16:
            yield "launch.tma_alignment", f"{which}: TMA wants a base aligned to 16 bytes"
        for stride in descriptor["strides"][:-1]:
            if stride * size % 16:
                yield "launch.tma_stride", f"{which}: TMA wants strides of 16 bytes, got {stride} x {size} bytes"
                break
        if descriptor["strides"] and descriptor["strides"][-1] != 1:
            yield "launch.tma_stride", f"{which}: TMA wants the last dimension contiguous"
