"""Makes Triton's interpreter round to bf16 and FP8 as GPUs do: to nearest, ties to even, saturating to FP8.

The interpreter cuts the bits off instead (triton/runtime/interpreter.py, `_convert_float`, 3.6 to 3.9): errors of
twice the size, all towards zero, and results that differ from the GPU's bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_TARGETS = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
_SATURATING = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def install() -> None:
    """Replace the interpreter's conversion for float32 to bf16, e4m3 and e5m2; all others stay its own."""
    original = interpreter._convert_float

    def convert(data: np.ndarray[Any, Any], source: Any, target: Any, mode: Any) -> np.ndarray[Any, Any]:
        dtype = _TARGETS.get(target)
        if source != tl.float32 or dtype is None or mode not in (None, interpreter._ir.ROUNDING_MODE.RTNE):
            result: np.ndarray[Any, Any] = original(data, source, target, mode)
            return result
        values = torch.from_numpy(np.array(data, dtype=np.float32, copy=True, order="C"))
        if limit := _SATURATING.get(dtype):
            values = values.clamp(-limit, limit)  # NaN stays NaN
        bits = torch.int16 if dtype is torch.bfloat16 else torch.int8
        unsigned = np.uint16 if dtype is torch.bfloat16 else np.uint8
        rounded: np.ndarray[Any, Any] = values.to(dtype).view(bits).numpy().view(unsigned)
        return rounded

    interpreter._convert_float = convert
