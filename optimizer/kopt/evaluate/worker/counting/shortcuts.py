"""Short cuts for the arithmetic of tile numbers, offsets, masks and pointers: most of what is run while counting.

Triton's frontend takes 40 us and more for an operation, whatever its size; here it is a few. Results are the same:
int32 and int64, promoted as Triton does, wrapping, divisions truncated toward zero. Everything else takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from kopt.evaluate.worker.counting.arrays import Array, is_flat
from kopt.evaluate.worker.counting.builder import CountingBuilder

_LIMIT = 1 << 31
_EVERYTHING = slice(None)
_INTEGERS = {np.dtype(np.int32).str: tl.int32, np.dtype(np.int64).str: tl.int64}


def _divide(a: Any, b: Any) -> Any:
    return (a - np.fmod(a, b)) // b


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": _divide, "mod": np.fmod,
}  # fmt: skip
_COMPARISON: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def install(builder: CountingBuilder) -> None:
    """Wrap the operators of tl.tensor; call it after they were patched for interpretation."""
    for name, function in _ARITHMETIC.items():
        _wrap(builder, f"__{name}__", function, compare=False, swap=False)
        _wrap(builder, f"__r{name}__", function, compare=False, swap=True)
    for name, function in _COMPARISON.items():
        _wrap(builder, f"__{name}__", function, compare=True, swap=False)
    _wrap_and(builder)
    _wrap_index()
    _share_types()


def _wrap(builder: CountingBuilder, name: str, function: Callable[[Any, Any], Any], compare: bool, swap: bool) -> None:
    stock = getattr(tl.tensor, name)
    moves = name in ("__add__", "__radd__")

    def method(self: Any, other: Any, *rest: Any, **named: Any) -> Any:
        if not rest and not named:
            a = _integer(self)
            if a is not None:
                b = _integer(other, a.dtype)
                if b is not None:
                    result = function(b, a) if swap else function(a, b)
                    if result.size > 1:
                        builder.tally.operation("int", result.size)
                    dtype = tl.int1 if compare else _INTEGERS[result.dtype.str]
                    return _tensor(result, dtype, self, other)
            elif moves and (b := _integer(other)) is not None and (base := _pointers(self)) is not None:
                width = np.uint64(max(1, self.dtype.element_ty.primitive_bitwidth // 8))
                return _tensor(base + b.astype(np.uint64) * width, self.dtype, self, other)
        return stock(self, other, *rest, **named)

    setattr(tl.tensor, name, method)


def _wrap_and(builder: CountingBuilder) -> None:
    stock = tl.tensor.__and__

    def method(self: Any, other: Any, *rest: Any, **named: Any) -> Any:
        if not rest and not named and (a := _mask(self)) is not None and (b := _mask(other)) is not None:
            result = a & b
            builder.tally.operation("int", result.size)
            return _tensor(result, tl.int1, self, other)
        return stock(self, other, *rest, **named)

    tl.tensor.__and__ = method


def _wrap_index() -> None:
    stock = tl.tensor.__getitem__

    def method(self: Any, slices: Any, *rest: Any, **named: Any) -> Any:
        if type(slices) is tuple and all(s is None or (type(s) is slice and s == _EVERYTHING) for s in slices):
            data = self.handle.data
            if data.ndim == slices.count(_EVERYTHING) and self.type.is_block():
                view = data[tuple(np.newaxis if s is None else s for s in slices)]
                handle = type(self.handle)(view, self.handle.dtype)
                return tl.tensor(handle, tl.block_type(self.dtype, list(view.shape)))
        return stock(self, slices, *rest, **named)

    tl.tensor.__getitem__ = method


def _share_types() -> None:
    """Block types and what tensors derive from them are worked out once per type, not once per tensor."""
    block_init, tensor_init = tl.block_type.__init__, tl.tensor.__init__
    known: dict[Any, dict[str, Any]] = {}

    def init_block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(getattr(size, "value", size) for size in shape)
        key = (type(element_ty), element_ty.name, sizes)
        if key not in known:
            block_init(self, element_ty, shape)
            known[key] = {**self.__dict__, "_kopt_tensor": {}}
        self.__dict__.update(known[key])

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        derived = type.__dict__.get("_kopt_tensor")
        if not derived:
            tensor_init(self, handle, type)
            if derived is not None:
                derived.update({key: value for key, value in self.__dict__.items() if key not in ("handle", "type")})
            return
        self.__dict__.update(derived)
        self.handle, self.type = handle, type

    tl.block_type.__init__, tl.tensor.__init__ = init_block, init_tensor
    for scalar in (tl.int1, tl.int32, tl.int64):
        scalar._kopt_tensor = {}


def _tensor(data: Array, dtype: Any, *operands: Any) -> Any:
    block = any(isinstance(o, tl.tensor) and o.type.is_block() for o in operands)
    return tl.tensor(TensorHandle(data, dtype), tl.block_type(dtype, list(data.shape)) if block else dtype)


def _data(operand: Any) -> Array | None:
    """The values of a tensor that is neither unknown nor flat; None for anything else."""
    if type(operand) is tl.tensor and type(operand.handle) is TensorHandle:
        data: Array = operand.handle.data
        return data if data.size == 1 or not is_flat(data) else None
    return None


def _integer(operand: Any, like: Any = None) -> Array | None:
    """int32 or int64 values of a tensor or a number; a number takes the other operand's type."""
    if type(operand) is tl.constexpr:
        operand = operand.value
    if type(operand) is int:
        return np.array([operand], dtype=like or np.int32) if -_LIMIT <= operand < _LIMIT else None
    data = _data(operand)
    if data is None or (dtype := _INTEGERS.get(data.dtype.str)) is None or operand.dtype.name != dtype.name:
        return None
    return data


def _pointers(operand: Any) -> Array | None:
    data = _data(operand)
    return data if data is not None and operand.dtype.is_ptr() and data.dtype == np.uint64 else None


def _mask(operand: Any) -> Array | None:
    data = _data(operand)
    return data if data is not None and operand.dtype.name == "int1" and data.dtype == np.bool_ else None
