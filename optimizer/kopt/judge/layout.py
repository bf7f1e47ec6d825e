"""Where every tensor of a batch lies in the memory that judge and runner share. Both sides compute views from it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from kopt.judge.backends import Tensor
from kopt.records import Task
from kopt.records.base import Record
from kopt.records.task import ITEMSIZE

_ALIGN = 512
"""Bytes, as torch's allocator gives: a kernel may specialise on it."""


class Block(Record):
    """Copies of one tensor argument at a fixed stride: variants of an input, slots of an output."""

    name: str
    dtype: str
    sizes: tuple[int, ...]
    count: int
    offset: int
    stride: int
    """Bytes from one copy to the next."""


class Layout(Record):
    """Inputs first, then outputs."""

    inputs: tuple[Block, ...]
    outputs: tuple[Block, ...]
    input_bytes: int
    total_bytes: int


def layout(task: Task, dims: Mapping[str, int], variants: int, slots: int) -> Layout:
    """`variants` of every input and `slots` of every output."""
    offset = 0
    blocks: dict[str, list[Block]] = {"input": [], "output": []}
    input_bytes = 0
    for role, count in (("input", variants), ("output", slots)):
        for spec in (t for t in task.tensors if t.role == role):
            stride = -(-spec.nbytes(dims) // _ALIGN) * _ALIGN
            blocks[role].append(
                Block(
                    name=spec.name, dtype=spec.dtype, sizes=spec.sizes(dims), count=count, offset=offset, stride=stride
                )
            )
            offset += count * stride
        input_bytes = input_bytes or offset
    return Layout(
        inputs=tuple(blocks["input"]), outputs=tuple(blocks["output"]), input_bytes=input_bytes, total_bytes=offset
    )


def call_bytes(task: Task, dims: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of one set of inputs and of one set of outputs, as laid out."""
    one = layout(task, dims, 1, 1)
    return one.input_bytes, one.total_bytes - one.input_bytes


def views(arena: Tensor, block: Block) -> list[Tensor]:
    """One contiguous tensor per copy."""
    import torch

    dtype: Any = getattr(torch, block.dtype)
    nbytes = prod(block.sizes) * ITEMSIZE[block.dtype]
    starts = (block.offset + i * block.stride for i in range(block.count))
    return [arena[at : at + nbytes].view(dtype).view(block.sizes) for at in starts]


def stacked(arena: Tensor, block: Block) -> Tensor:
    """All copies as one strided tensor [count, *sizes]."""
    import torch

    whole = arena[block.offset : block.offset + block.count * block.stride].view(getattr(torch, block.dtype))
    strides = [block.stride // ITEMSIZE[block.dtype]]
    strides += [prod(block.sizes[i + 1 :]) for i in range(len(block.sizes))]
    return whole.as_strided((block.count, *block.sizes), strides)
