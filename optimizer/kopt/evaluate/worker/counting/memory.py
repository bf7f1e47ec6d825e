"""A made-up address space: every storage starts on a 2-MiB boundary, as device allocations do.

The host's own addresses would not do: CPU allocations are aligned to 64 bytes, which makes tiles straddle lines that
they do not straddle on a GPU.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kopt.evaluate.worker.counting.arrays import Array, is_flat, squeeze

SECTOR_SHIFT = 5
"""L2 moves sectors of 32 bytes; four of them make the 128-byte line of its tags."""
LINE_SHIFT = 2
_ALIGN = 1 << 21
_FIRST = 1 << 40
_SMALL = 1 << 20
_NOTHING: Array = np.empty(0, dtype=np.uint64)


@dataclass(eq=False)
class Buffer:
    """One storage as kernels see it."""

    name: str
    base: int
    nbytes: int
    values: Array | None = None
    """The storage's bytes when what it holds is real and may steer control flow."""
    written: bool = False
    """A kernel stored to it: what it holds now was never computed."""
    keep: Any = field(default=None, repr=False)
    """Keeps the tensor alive, so that no other storage takes its address."""


class AddressSpace:
    """Places torch storages and finds the storage of an address."""

    def __init__(self) -> None:
        self._by_storage: dict[int, Buffer] = {}
        self._bases: list[int] = []
        self._buffers: list[Buffer] = []

    def name(self, tensor: Any, name: str, real: bool) -> None:
        """Give a tensor's storage its name; `real` says that its values are those of the problem."""
        buffer = self._place(tensor)
        buffer.name = name
        if not real:
            buffer.values = None

    def address(self, tensor: Any) -> int:
        """The made-up device address of a tensor's first element."""
        buffer = self._place(tensor)
        return buffer.base + int(tensor.storage_offset()) * int(tensor.element_size())

    def find(self, address: int) -> Buffer | None:
        at = bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        buffer = self._buffers[at]
        # One alignment of slack: reads just past the end belong to the tensor they run out of.
        return buffer if address < buffer.base + buffer.nbytes + _ALIGN // 2 else None

    def of(self, tensor: Any) -> Buffer:
        return self._place(tensor)

    def _place(self, tensor: Any) -> Buffer:
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key not in self._by_storage:
            base = _FIRST
            if self._buffers:
                last = self._buffers[-1]
                base = -(-(last.base + last.nbytes + _ALIGN) // _ALIGN) * _ALIGN
            nbytes = int(storage.nbytes())
            buffer = Buffer(f"buffer {len(self._buffers)}", base, nbytes, _values(tensor, nbytes), keep=tensor)
            self._by_storage[key] = buffer
            self._bases.append(base)
            self._buffers.append(buffer)
        return self._by_storage[key]


def _values(tensor: Any, nbytes: int) -> Array | None:
    """The bytes of an integer tensor (ids, counts, offsets, page tables); None for what is merely arithmetic."""
    import ctypes

    import torch

    steering = tensor.dtype in (torch.int16, torch.int32, torch.int64, torch.bool)
    if tensor.dtype in (torch.int8, torch.uint8):
        steering = nbytes <= _SMALL  # larger ones are quantised operands
    address = int(tensor.untyped_storage().data_ptr())
    if not steering or nbytes == 0 or address == 0:
        return None
    return np.frombuffer(memoryview((ctypes.c_char * nbytes).from_address(address)), dtype=np.uint8)


def sectors(pointers: Array, mask: Array | None) -> tuple[int, Array]:
    """How many elements an access moves, and the sorted distinct 32-byte sectors that they lie in.

    `pointers` are uint64 addresses of any shape; elements are aligned to their size, so that none straddles a sector.
    """
    if mask is not None and (is_flat(mask) or mask.all()):
        if not mask.flat[0]:
            return 0, _NOTHING
        mask = None
    count = pointers.size if mask is None else int(np.count_nonzero(mask))
    if count == 0:
        return 0, _NOTHING
    if mask is None:
        if is_flat(pointers):
            pointers = squeeze(pointers)
        ids = _fastest_last(pointers) >> SECTOR_SHIFT
        ids = ids.ravel()
    else:
        ids = np.broadcast_to(pointers, mask.shape)[mask] >> SECTOR_SHIFT
    # Neighbours share sectors: drop the repeats before the sort that `unique` needs.
    if ids.size > 1:
        ids = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
    return count, ids if bool((ids[1:] > ids[:-1]).all()) else np.unique(ids)


def _fastest_last(pointers: Array) -> Array:
    """The array with its most contiguous axis last."""
    if pointers.ndim < 2 or pointers.shape[0] < 2:
        return pointers
    origin = pointers[(0,) * pointers.ndim]
    along_first = abs(int(pointers[(1,) + (0,) * (pointers.ndim - 1)]) - int(origin))
    along_last = abs(int(pointers[(0,) * (pointers.ndim - 1) + (-1,)]) - int(origin)) / max(pointers.shape[-1] - 1, 1)
    return np.moveaxis(pointers, 0, -1) if along_first < along_last else pointers


def box_sectors(
    base: int, shape: list[int], strides: list[int], offsets: list[int], block: list[int], itemsize: int
) -> tuple[int, Array]:
    """Elements and sectors of a descriptor's box, clipped to the tensor. The last dimension is contiguous."""
    low = [max(0, offset) for offset in offsets]
    high = [min(size, offset + extent) for size, offset, extent in zip(shape, offsets, block, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return 0, _NOTHING
    starts = np.array([base], dtype=np.int64)
    for a, b, stride in zip(low[:-1], high[:-1], strides[:-1], strict=True):
        starts = (starts[:, None] + np.arange(a, b, dtype=np.int64) * (stride * itemsize)).ravel()
    first = (starts + low[-1] * itemsize) >> SECTOR_SHIFT
    last = (starts + high[-1] * itemsize - 1) >> SECTOR_SHIFT
    widest = int((last - first).max()) + 1
    ids = first[:, None] + np.arange(widest)
    ids = ids[ids <= last[:, None]]
    ids = ids if bool((ids[1:] > ids[:-1]).all()) else np.unique(ids)
    return starts.size * (high[-1] - low[-1]), ids.astype(np.uint64)


def lines(sector_ids: Array) -> int:
    """Distinct 128-byte lines of sorted sectors."""
    if sector_ids.size == 0:
        return 0
    ids = sector_ids >> LINE_SHIFT
    return 1 + int(np.count_nonzero(ids[1:] != ids[:-1]))


def host_addresses(buffer: Buffer, pointers: Array) -> Array:
    """Where made-up addresses lie in this process; only for a buffer whose values are held."""
    assert buffer.values is not None
    return np.ascontiguousarray(pointers - np.uint64(buffer.base) + np.uint64(buffer.values.ctypes.data))


def digest(buffer: Buffer) -> str:
    """Identity of what a buffer holds, where that is known and can steer a kernel."""
    if buffer.values is None or buffer.written:
        return ""
    return hashlib.blake2b(buffer.values.data, digest_size=16).hexdigest()


def gather(buffer: Buffer, pointers: Array, mask: Array | None, other: Array | None, dtype: np.dtype[Any]) -> Array:
    """Real values at made-up addresses; `other` where masked, zero outside of the storage."""
    assert buffer.values is not None
    offsets = pointers.astype(np.int64) - buffer.base
    inside = (offsets >= 0) & (offsets + dtype.itemsize <= buffer.nbytes)
    if mask is not None:
        inside = inside & mask
    items = buffer.values[: buffer.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
    picked = items[np.where(inside, offsets, 0) // dtype.itemsize]
    fallback = np.zeros((), dtype) if other is None else other
    return np.asarray(np.where(inside, picked, fallback).astype(dtype))
