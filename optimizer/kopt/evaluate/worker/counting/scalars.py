"""A short cut for arithmetic on int32 scalars: tile numbers and offsets, most of what a program does before its loop.

Triton's frontend takes about 40 us for an operation, whatever its size; here it is a few. The results are the same: both
wrap at 32 bits and truncate divisions toward zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

_LIMIT = 1 << 31


def _divide(a: Any, b: Any) -> Any:
    return (a - np.fmod(a, b)) // b


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": _divide, "mod": np.fmod,
}  # fmt: skip
_COMPARISON: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def install() -> None:
    """Wrap the operators of tl.tensor; call it after they were patched for interpretation."""
    for name, function in _ARITHMETIC.items():
        _wrap(f"__{name}__", function, compare=False, swap=False)
        _wrap(f"__r{name}__", function, compare=False, swap=True)
    for name, function in _COMPARISON.items():
        _wrap(f"__{name}__", function, compare=True, swap=False)


def _wrap(name: str, function: Callable[[Any, Any], Any], compare: bool, swap: bool) -> None:
    stock = getattr(tl.tensor, name)

    def method(self: Any, other: Any, *rest: Any, **named: Any) -> Any:
        if not rest and not named and (a := _value(self)) is not None and (b := _value(other)) is not None:
            result = function(b, a) if swap else function(a, b)
            return tl.tensor(TensorHandle(result, tl.int32), tl.int1 if compare else tl.int32)
        return stock(self, other, *rest, **named)

    setattr(tl.tensor, name, method)


def _value(operand: Any) -> Any:
    """The one int32 that an operand stands for, as an array of shape (1,); None for anything else, ghosts included."""
    if type(operand) is tl.constexpr:
        operand = operand.value
    if type(operand) is int:
        return np.array([operand], dtype=np.int32) if -_LIMIT <= operand < _LIMIT else None
    if type(operand) is tl.tensor and type(operand.handle) is TensorHandle and operand.type is tl.int32:
        data = operand.handle.data
        return data if data.dtype == np.int32 and data.shape == (1,) else None
    return None
