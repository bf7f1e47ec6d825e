"""Makes Triton's interpreter convert to and from bf16 and FP8, and multiply matrices of bf16, as GPUs do.

Its own conversion (triton/runtime/interpreter.py, `_convert_float`, 3.6 to 3.9) cuts bits off where hardware rounds to
nearest, ties to even, and saturates to FP8: errors of twice the size, all towards zero, and other bits than the GPU's.
And it takes the NaN of e4m3, which has no infinity, for 480, so that reading beyond a tensor goes unseen. A dot of
bf16 multiplies the bits of its operands as integers (`create_dot`, 3.6 to 3.9).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from kopt.evaluate.worker import mended

_NARROW = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
_WIDE = {tl.float32: torch.float32, tl.float16: torch.float16, tl.bfloat16: torch.bfloat16}
_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def install() -> None:
    """Replace the conversion from float32 to bf16, e4m3 and e5m2 and from these to wider ones, and the dot."""
    mended.install()
    original = interpreter._convert_float
    nearest = (None, interpreter._ir.ROUNDING_MODE.RTNE)

    def convert(data: np.ndarray[Any, Any], source: Any, target: Any, mode: Any) -> np.ndarray[Any, Any]:
        result: np.ndarray[Any, Any]
        if source == tl.float32 and target in _NARROW and mode in nearest:
            values = _tensor(data, torch.float32)
            if largest := _LARGEST.get(_NARROW[target]):
                values = values.clamp(-largest, largest)  # NaN stays NaN
            result = _bits(values.to(_NARROW[target]))
        elif source in _NARROW and target in _WIDE and source != target:
            result = _bits(_tensor(data, _NARROW[source]).to(_WIDE[target]))
        else:
            result = original(data, source, target, mode)
        return result

    interpreter._convert_float = convert
    dot = interpreter.InterpreterBuilder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = _bits(_tensor(operand.data, torch.bfloat16).to(torch.float32))
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def _tensor(data: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    raw = np.array(data, copy=True, order="C").reshape(-1).view(np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(data.shape)


def _bits(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """Unsigned integers of the same bits, which is what the interpreter's own conversion returns."""
    unsigned = _BITS[values.element_size()]
    bits: np.ndarray[Any, Any] = values.reshape(-1).view(torch.uint8).numpy().view(unsigned)
    return bits.reshape(values.shape)
