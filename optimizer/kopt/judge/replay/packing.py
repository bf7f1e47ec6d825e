"""A launch's parameters as the kernel finds them: what Triton's launcher packs, for triton 3.6 to 3.9.

All versions agree on the order: the arguments that are no constexprs, a descriptor as its tensor map, its shape and its
strides; then the addresses of global and of profile scratch. Sizes are the kernel's own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kopt.evaluate.recipe import Argument, Step
from kopt.judge.replay import Unreplayable

_INTEGERS = {"i1": 1, "u1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8}
_FLOATS = {"fp16": ("<e", 2), "fp32": ("<f", 4), "f32": ("<f", 4), "fp64": ("<d", 8)}
TENSOR_MAP = 128
"""Bytes of a CUtensorMap, and what it has to be aligned to."""


class Parameter(NamedTuple):
    """One kernel parameter. `data` has at least `size` bytes: integers are widened to eight."""

    data: bytes
    size: int


def parameters(
    step: Step, address: Callable[[Argument], int], encode: Callable[[Argument, int], bytes], scratch: int
) -> list[Parameter]:
    """`address` places an argument, `encode` makes the tensor map of a descriptor at an address.

    Unreplayable for a type that no launcher of Triton knows.
    """
    found = [p for argument in step.arguments for p in _argument(argument, address, encode)]
    return [*found, _pointer(scratch), _pointer(0)]


def _argument(
    argument: Argument, address: Callable[[Argument], int], encode: Callable[[Argument, int], bytes]
) -> Iterator[Parameter]:
    if argument.kind == "pointer":
        yield _pointer(address(argument))
    elif argument.kind == "scalar":
        yield scalar(argument.type, argument.value)
    elif argument.kind == "descriptor":
        yield Parameter(encode(argument, address(argument)), TENSOR_MAP)
        for extent in argument.shape:
            yield scalar("i32", extent)
        for stride in argument.strides:
            yield scalar("i64", stride)


def scalar(type: str, value: object) -> Parameter:
    """A number as Triton packs it: bfloat16 is cut, not rounded."""
    try:
        if type in _INTEGERS:
            return Parameter((int(value) & (1 << 64) - 1).to_bytes(8, "little"), _INTEGERS[type])  # type: ignore[call-overload]
        number = float(value)  # type: ignore[arg-type]
        if type == "bf16":
            return Parameter(struct.pack("<f", number)[2:] + bytes(6), 2)
        if type in _FLOATS:
            form, size = _FLOATS[type]
            return Parameter(struct.pack(form, number).ljust(8, b"\0"), size)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreplayable(f"{value!r} cannot be passed as {type}: {error}") from None
    raise Unreplayable(f"parameters of type {type} are unknown to the replayer")


def _pointer(address: int) -> Parameter:
    return Parameter(address.to_bytes(8, "little"), 8)


def extents(argument: Argument) -> tuple[list[int], list[int], list[int]]:
    """Of a descriptor, innermost first as CUDA wants them: sizes, strides in bytes (without the innermost), box."""
    assert argument.box is not None
    shape = list(argument.shape)
    if argument.box.fp4_padded:
        shape[-1] *= 2
    strides = [stride * argument.box.elem_size for stride in argument.strides[:-1]]
    return shape[::-1], strides[::-1], list(argument.box.block[::-1])


def tensor_type(argument: Argument) -> int:
    """CUtensorMapDataType: the device numbers three of them otherwise than the host."""
    assert argument.box is not None
    if argument.tf32:
        return 11
    return {8: 10, 9: 8, 10: 9}.get(argument.box.elem_type, argument.box.elem_type)
