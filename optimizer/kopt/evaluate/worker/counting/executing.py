"""Launches whose results are known: those on integer tensors alone, all of them known, are really run.

An index that one launch builds and later ones are steered by (an inverse list, a schedule, a histogram) would otherwise
be unknown, and so would their trip counts. Everything that a kernel does with integers the counting interpreter does
anyway; here it also stores. Floating-point arithmetic, which it only counts, makes a launch unfit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from kopt.evaluate.worker.counting.arrays import Array, known
from kopt.evaluate.worker.counting.memory import Buffer, host_addresses
from kopt.evaluate.worker.counting.tally import Tally

_COMPUTED = frozenset(("int", "select", "reduce", "gather", "atomic"))
"""Kinds of operations whose results are exact when their operands are."""
HARMLESS = "sorting"
"""How the one warning begins that does not say that a result is unknown."""


class Unfit(Exception):
    """The launch does something whose result is not known."""


class Strict(Tally):
    """The counts of a program that is really run."""

    def operation(self, kind: str, elements: int) -> None:
        if kind not in _COMPUTED:
            raise Unfit(f"{kind} arithmetic")
        super().operation(kind, elements)

    def mma(self, *args: Any) -> None:
        raise Unfit("matrix products")

    def warn(self, text: str) -> None:
        # What is warned of was not computed: an unknown mask, address or branch, a wait, a library call.
        if not text.startswith(HARMLESS):
            raise Unfit(text)
        super().warn(text)


def tensors(value: Any) -> Iterator[Any]:
    """The tensors in a launch argument: itself, the base of a descriptor or of a reinterpretation, a tuple's items."""
    if isinstance(value, tuple):
        for item in value:
            yield from tensors(item)
        return
    tensor = getattr(value, "base", value)
    if hasattr(tensor, "untyped_storage"):
        yield tensor


def fit(bound: Mapping[str, Any], space: Any) -> bool:
    """Whether all tensors of a launch hold integers, and none holds what was never computed."""
    found = [tensor for value in bound.values() for tensor in tensors(value)]
    if not found or any(tensor.dtype.is_floating_point or tensor.dtype.is_complex for tensor in found):
        return False
    buffers = [space.of(tensor) for tensor in found]
    return all(buffer.values is not None and not buffer.written for buffer in buffers)


def store(buffer: Buffer | None, pointers: Any, value: Any, live: Array | None) -> None:
    """Write what a program stores."""
    if buffer is None:
        return  # no lane was live
    if not known(value):
        raise Unfit("an unknown value is stored")
    data = np.broadcast_to(value.data, pointers.data.shape)
    mask = np.ones(pointers.data.shape, dtype=bool) if live is None else np.asarray(live)
    if buffer.values is None or data.dtype.itemsize != max(1, pointers.get_element_ty().primitive_bitwidth // 8):
        raise Unfit("a store that is not one of integers")
    offsets = (pointers.data.astype(np.int64) - buffer.base)[mask]
    _inside(buffer, offsets, data.dtype.itemsize)
    buffer.values.view(np.uint8)[offsets[:, None] + np.arange(data.dtype.itemsize)] = (
        np.ascontiguousarray(data[mask]).view(np.uint8).reshape(len(offsets), -1)
    )


def atomic(builder: Any, buffer: Buffer | None, operation: Any, pointers: Any, value: Any, live: Array | None,
           rest: tuple[Any, ...]) -> Any:  # fmt: skip
    """The old values; programs run one after the other, which is one of the orders that a GPU might take."""
    if not known(value):
        raise Unfit("an unknown value is stored")
    mask = np.ones(pointers.data.shape, dtype=bool) if live is None else np.ascontiguousarray(live)
    if buffer is None:
        return TensorHandle(np.zeros(pointers.data.shape, value.data.dtype), value.dtype.scalar)
    if buffer.values is None or value.dtype.scalar.is_floating():
        raise Unfit("an atomic operation that is not one of integers")
    _inside(buffer, (pointers.data.astype(np.int64) - buffer.base)[mask], value.data.dtype.itemsize)
    places = TensorHandle(host_addresses(buffer, pointers.data), pointers.dtype.scalar)
    data = TensorHandle(np.array(np.broadcast_to(value.data, pointers.data.shape)), value.dtype.scalar)
    return InterpreterBuilder.create_atomic_rmw(builder, operation, places, data, TensorHandle(mask, tl.int1), *rest)


def _inside(buffer: Buffer, offsets: Array, itemsize: int) -> None:
    if offsets.size and (int(offsets.min()) < 0 or int(offsets.max()) + itemsize > buffer.nbytes):
        raise Unfit(f"a store beyond the end of {buffer.name}")
