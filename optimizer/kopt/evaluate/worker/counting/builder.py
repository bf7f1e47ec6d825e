"""The interpreter's operations, counting: what replaces `InterpreterBuilder`.

Trailing arguments of loads and stores differ between Triton versions and are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter
from triton.runtime.interpreter import (
    InterpreterBuilder,
    TensorHandle,
)

from kopt.evaluate.worker.counting import executing
from kopt.evaluate.worker.counting.arrays import Array, Ghost, ghost, is_flat, known, spread, squeeze
from kopt.evaluate.worker.counting.memory import AddressSpace, box_sectors, gather, sectors
from kopt.evaluate.worker.counting.operations import attach, like
from kopt.evaluate.worker.counting.tally import Tally


class CountingBuilder(InterpreterBuilder):  # type: ignore[misc]
    """Counts into `tally`, finds buffers in `space`."""

    def __init__(self, space: AddressSpace) -> None:
        super().__init__()
        # The default shadows every integer operation by a 64-bit check of its own.
        self.options: Any = dataclasses.replace(interpreter.InterpreterOptions(), sanitize_overflow=False)
        self.space = space
        self.tally = Tally()
        self.executing = False
        """Stores are carried out: see executing.py."""
        self.grid_dim: tuple[int, int, int] = (1, 1, 1)
        self.grid_idx: tuple[int, int, int] = (0, 0, 0)

    # Constants and shapes: flat arrays stay flat.

    def create_splat(self, ret_ty: Any, arg: Any) -> Any:
        handle = Ghost if not known(arg) else TensorHandle
        return handle(spread(arg.data, tuple(ret_ty.shape)), arg.dtype.scalar)

    def create_unsplat(self, arg: Any) -> Any:
        return type(arg)(spread(arg.data, (1,)), arg.dtype.scalar)

    def create_join(self, lhs: Any, rhs: Any) -> Any:
        if is_flat(lhs.data) and is_flat(rhs.data):
            handle = TensorHandle if known(lhs) and known(rhs) else Ghost
            if handle is Ghost or lhs.data.flat[0] == rhs.data.flat[0]:
                return handle(spread(lhs.data, (*lhs.data.shape, 2)), lhs.dtype.scalar)
        return super().create_join(lhs, rhs)

    def create_split(self, val: Any) -> Any:
        return tuple(type(val)(val.data[..., i], val.dtype.scalar) for i in (0, 1))

    def create_cat(self, lhs: Any, rhs: Any) -> Any:
        if known(lhs) and known(rhs):
            return super().create_cat(lhs, rhs)
        return ghost((lhs.data.shape[0] + rhs.data.shape[0], *lhs.data.shape[1:]), lhs.dtype)

    def create_gather(self, src: Any, indices: Any, axis: int) -> Any:
        self.tally.operation("gather", indices.data.size)
        if known(src) and known(indices):
            return super().create_gather(src, indices, axis)
        return ghost(indices.data.shape, src.dtype)

    def create_histogram(self, data: Any, bins: int, mask: Any) -> Any:
        self.tally.operation("atomic", data.data.size)
        if known(data) and (mask is None or known(mask)):
            return super().create_histogram(data, bins, mask)
        return ghost((bins,), tl.int32)

    # Conversions.

    def cast_impl(self, src: Any, dst_type: Any) -> Any:
        return self._convert(src, dst_type, lambda handle: InterpreterBuilder.cast_impl(self, handle, dst_type))

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        self.tally.operation("convert", src.data.size)
        return like(src, dst_type)

    def create_bitcast(self, src: Any, dst_type: Any) -> Any:
        if known(src) and not is_flat(src.data):
            return super().create_bitcast(src, dst_type)
        if isinstance(dst_type.scalar, tl.pointer_type) or isinstance(src.dtype.scalar, tl.pointer_type):
            value = squeeze(src.data).astype(np.uint64)
            return type(src)(spread(value, src.data.shape), dst_type.scalar)
        return like(src, dst_type)

    create_int_to_ptr = create_bitcast
    create_ptr_to_int = create_bitcast

    def _convert(self, src: Any, dst_type: Any, stock: Callable[[Any], Any]) -> Any:
        floats = src.dtype.scalar.is_floating() or dst_type.scalar.is_floating()
        self.tally.operation("convert" if floats else "int", src.data.size)
        if floats and (not known(src) or is_flat(src.data)):
            return like(src, dst_type)
        if is_flat(src.data):
            value = stock(TensorHandle(squeeze(src.data), src.dtype)).data
            return type(src)(spread(value, src.data.shape), dst_type.scalar)
        result = stock(src)
        return result if known(src) else Ghost(result.data, result.dtype)

    # Pointers.

    def create_addptr(self, ptr: Any, offset: Any) -> Any:
        width = np.uint64(max(1, ptr.get_element_ty().primitive_bitwidth // 8))
        handle = TensorHandle if known(ptr) and known(offset) else Ghost
        step = offset.data
        if is_flat(step) and is_flat(ptr.data):
            value = squeeze(ptr.data) + squeeze(step).astype(np.uint64) * width
            return handle(spread(value, np.broadcast_shapes(ptr.data.shape, step.shape)), ptr.dtype)
        if is_flat(step):
            return handle(ptr.data + step.flat[0].astype(np.uint64) * width, ptr.dtype)
        return handle(ptr.data + step.astype(np.uint64) * width, ptr.dtype)

    # Memory.

    def create_load(self, ptr: Any, *rest: Any) -> Any:
        return self._load(ptr, None, None)

    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
        return self._load(ptrs, mask, other)

    def create_store(self, ptr: Any, val: Any, *rest: Any) -> None:
        self._store(ptr, val, None)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *rest: Any) -> None:
        self._store(ptrs, value, mask)

    def create_atomic_load(self, ptr: Any, mask: Any, *rest: Any) -> Any:
        return self._load(ptr, mask, None)

    def create_atomic_store(self, ptr: Any, val: Any, mask: Any, *rest: Any) -> None:
        self._store(ptr, val, mask)

    def create_atomic_poll(self, ptr: Any, expected: Any, *rest: Any) -> Any:
        self.tally.warn("waits for other programs; the wait is not modelled")
        self._touch(ptr, None, "atomic")
        return TensorHandle(spread(np.array([True]), ptr.data.shape), tl.int1)

    def create_atomic_rmw(self, rmwOp: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        buffer, live = self._touch(ptr, mask, "atomic")
        if self.executing:
            return executing.atomic(self, buffer, rmwOp, ptr, val, live, rest)
        self._spoil(buffer)
        return ghost(ptr.data.shape, val.dtype)

    def create_atomic_cas(self, ptr: Any, cmp: Any, val: Any, *rest: Any) -> Any:
        # A lock is taken at the first try.
        self.tally.warn("waits for other programs; the wait is not modelled")
        self._touch(ptr, None, "atomic")
        return TensorHandle(cmp.data, cmp.dtype.scalar)

    def _load(self, ptr: Any, mask: Any, other: Any) -> Any:
        buffer, live = self._touch(ptr, mask, "load")
        element = ptr.get_element_ty()
        readable = buffer is not None and buffer.values is not None and not buffer.written
        if readable and known(ptr) and (mask is None or known(mask)) and (other is None or known(other)):
            self.tally.steered += 1
            values = gather(
                buffer, ptr.data, live, None if other is None else other.data, interpreter._get_np_dtype(element)
            )
            return TensorHandle(values, element)
        return ghost(ptr.data.shape, element)

    def _store(self, ptr: Any, value: Any, mask: Any) -> None:
        buffer, live = self._touch(ptr, mask, "store")
        if self.executing:
            executing.store(buffer, ptr, value, live)
        else:
            self._spoil(buffer)

    def _spoil(self, buffer: Any) -> None:
        """What a buffer holds from now on is not known."""
        if self.executing:
            raise executing.Unfit("descriptors")
        if buffer is not None:
            buffer.written = True

    def _touch(self, ptr: Any, mask: Any, direction: str) -> tuple[Any, Array | None]:
        """Count an access through pointers; the buffer and the mask that applied."""
        live: Array | None = None
        if mask is not None:
            if known(mask):
                live = np.broadcast_to(mask.data, ptr.data.shape)
            else:
                self.tally.warn("a mask depends on data: counted as if all of it were set")
        if not known(ptr):
            self.tally.warn("addresses depend on data: reuse between programs is unknown")
        if self.tally.probing:
            whole = ptr.get_element_ty().is_int() and ptr.data.size and (live is None or live.any())
            first = ptr.data.flat[0] if live is None else ptr.data.flat[int(live.argmax())] if whole else 0
            return self.space.find(int(first)) if whole else None, live
        count, ids = sectors(ptr.data, live)
        itemsize = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        buffer = self.space.find(int(ids[0]) << 5) if ids.size else None
        self.tally.access(buffer, direction, "pointer", count * itemsize, ptr.data.size * itemsize, ids, not known(ptr))
        return buffer, live

    # Descriptors (TMA).

    def create_descriptor_load(self, desc: Any, indices: Any, *rest: Any, **named: Any) -> Any:
        self._box(desc, [int(i.data.flat[0]) for i in indices], "load", all(map(known, indices)))
        return ghost(tuple(desc.block_shape), desc.base.get_element_ty())

    def create_descriptor_store(self, desc: Any, value: Any, indices: Any, *rest: Any) -> None:
        self._box(desc, [int(i.data.flat[0]) for i in indices], "store", all(map(known, indices)))

    def create_descriptor_reduce(self, kind: Any, desc: Any, value: Any, indices: Any, *rest: Any) -> None:
        self._box(desc, [int(i.data.flat[0]) for i in indices], "atomic", all(map(known, indices)))

    def create_descriptor_gather(self, desc: Any, x_offsets: Any, y_offset: Any, *rest: Any) -> Any:
        self._rows(desc, x_offsets, y_offset, "load")
        return ghost((x_offsets.data.shape[0], desc.block_shape[-1]), desc.base.get_element_ty())

    def create_descriptor_scatter(self, desc: Any, value: Any, x_offsets: Any, y_offset: Any, *rest: Any) -> None:
        self._rows(desc, x_offsets, y_offset, "store")

    def _rows(self, desc: Any, x_offsets: Any, y_offset: Any, direction: str) -> None:
        for x in x_offsets.data.ravel():
            self._box(
                desc, [int(x), int(y_offset.data.flat[0])], direction, known(x_offsets), [1, desc.block_shape[-1]]
            )

    def _box(self, desc: Any, offsets: list[int], direction: str, exact: bool, block: list[int] | None = None) -> None:
        base = int(desc.base.data.flat[0])
        itemsize = max(1, desc.base.get_element_ty().primitive_bitwidth // 8)
        if not exact:
            self.tally.warn("addresses depend on data: reuse between programs is unknown")
        shape = [int(size.data.flat[0]) for size in desc.shape]
        strides = [int(stride.data.flat[0]) for stride in desc.strides]
        extents = [int(getattr(extent, "value", extent)) for extent in (block or desc.block_shape)]
        count, ids = box_sectors(base, shape, strides, offsets, extents, itemsize)
        buffer = self.space.find(base)
        most = prod(extents) * itemsize
        self.tally.access(buffer, direction, "descriptor", count * itemsize, most, ids, not exact)
        if direction != "load":
            self._spoil(buffer)

    # Matrix products.

    def create_dot(self, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        *batch, m, k = a.data.shape
        n = b.data.shape[-1]
        self.tally.mma(str(a.dtype.scalar), str(b.dtype.scalar), m, n, k, int(np.prod(batch, initial=1)))
        return ghost(d.data.shape, d.dtype)

    def create_dot_scaled(self, lhs: Any, *rest: Any) -> Any:
        handles = [h for h in (lhs, *rest) if isinstance(h, TensorHandle)]
        acc = handles[-1]
        matrices = [h for h in handles[:-1] if h.data.ndim == acc.data.ndim]
        m, n = acc.data.shape[-2:]
        k = max(h.data.size for h in matrices) // max(m, n)
        self.tally.warn("dot_scaled: block-scaled matrix instructions are not calibrated")
        self.tally.mma(str(lhs.dtype.scalar), "scaled", m, n, max(k, lhs.data.shape[-1]))
        return ghost(acc.data.shape, acc.dtype)

    # What the stock interpreter refuses.

    def create_extern_elementwise(self, lib: str, path: str, symbol: str, args: Any, ret_type: Any, pure: bool) -> Any:
        shape = np.broadcast_shapes(*(a.data.shape for a in args)) if args else (1,)
        self.tally.operation("extern", int(np.prod(shape)))
        self.tally.warn("libdevice: its instructions are estimated")
        return ghost(shape, ret_type)

    def create_inline_asm(self, asm: str, constraints: str, values: Any, types: Any, pure: bool, pack: int) -> Any:
        shape = np.broadcast_shapes(*(v.data.shape for v in values)) if values else (1,)
        self.tally.operation("extern", int(np.prod(shape)))
        self.tally.warn("inline assembly: its instructions are estimated")
        return _Results([ghost(shape, ty) for ty in types])

    def create_print(self, *args: Any) -> None:
        pass

    def create_assert(self, *args: Any) -> None:
        pass

    def create_assume(self, *args: Any) -> None:
        pass


class _Results:
    """What the frontend expects of an operation with several results."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def get_result(self, index: int) -> Any:
        return self._handles[index]


attach(CountingBuilder)
