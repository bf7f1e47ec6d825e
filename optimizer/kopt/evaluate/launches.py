"""What a launch on a GPU checks and the stub does not: grid, TMA descriptors, scratch memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kopt.evaluate.compilation import Compiled
from kopt.evaluate.hearsay import LARGEST
from kopt.evaluate.occupancy import fits
from kopt.machine.products import Product
from kopt.records import Status

_GRID = (2**31 - 1, 65535, 65535)
_BOX = 256
"""Elements a TMA box may have in each dimension."""


Violation = tuple[str, str, Status]
"""Rule, message, and the verdict that it calls for."""


def violations(launch: Mapping[str, Any], compiled: Compiled, product: Product) -> Iterator[Violation]:
    """Everything that would make this launch fail on the product."""
    name = launch["name"]
    for axis, size, most in zip("xyz", launch["grid"], _GRID, strict=True):
        if size > most:
            shown = size if size < LARGEST else f"{size} or more"
            yield "launch.grid", f"{name}: grid {axis} = {shown}, above CUDA's limit of {most}", Status.CRASHED
        if size < 0:
            yield "launch.grid", f"{name}: grid {axis} is negative", Status.CRASHED
    for what, need, limit in fits(product, compiled.metadata):
        message = f"{name}: a block needs {need} of {what}, and {product.name} has {limit}"
        yield f"launch.{what.replace(' ', '_')}", message, Status.COMPILE_ERROR
    if (compiled.metadata.get("global_scratch_size") or 0) > 0 and not launch["allocator"]:
        message = f"{name}: needs scratch memory, but triton.set_allocator() was not called"
        yield "launch.allocator", message, Status.CRASHED
    for rule, message in _descriptors(launch, compiled):
        yield rule, message, Status.CRASHED


def _descriptors(launch: Mapping[str, Any], compiled: Compiled) -> Iterator[tuple[str, str]]:
    boxes = compiled.metadata.get("tensordesc_meta") or []
    for number, descriptor in enumerate(launch["descriptors"]):
        if number >= len(boxes) or boxes[number] is None:
            continue  # lowered to plain pointers: no TMA, none of its rules
        size = int(descriptor["itemsize"])
        *outer, inner = descriptor["strides"]
        box = boxes[number].get("block_size", ())
        which = f"{launch['name']}: descriptor {number + 1}"
        if any(extent > _BOX for extent in box):
            yield "launch.tma_box", f"{which}: a box of {box}, above TMA's limit of {_BOX} per dimension"
        if descriptor["address"] % 16:
            yield "launch.tma_alignment", f"{which}: TMA wants a base aligned to 16 bytes"
        if wrong := [stride for stride in outer if stride * size % 16]:
            yield "launch.tma_stride", f"{which}: TMA wants strides of 16 bytes, got {wrong[0]} x {size} bytes"
        if inner != 1:
            yield "launch.tma_stride", f"{which}: TMA wants the last dimension contiguous"
