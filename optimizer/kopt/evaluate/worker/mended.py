"""What Triton's interpreter lacks whoever uses it: to execute kernels, or to count what they would do."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from triton.runtime import interpreter

_NAMES = ("gdc_wait", "gdc_launch_dependents")


def install() -> None:
    """Before a candidate is imported."""
    # A launch follows the one before here: what programmatic dependent launch waits for has happened. Elsewhere these
    # are inline assembly.
    for module in ("triton.language.extra.cuda", "triton.language.extra.cuda.gdc"):
        for name in _NAMES:
            setattr(importlib.import_module(module), name, _nothing)
    # With Triton 3.6 no loop has bounds that were loaded: NumPy, from 2.4 on, makes no number of an array of one.
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        set_to = scope[0].set_attr if scope else setattr
        set_to(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
    # What is compared keeps its operands' type, and a mask made of one such scalar would be numbers, which Triton 3.9
    # takes for no mask.
    spread = interpreter.InterpreterBuilder.create_splat

    def spread_truth(self: Any, to: Any, scalar: Any) -> Any:
        handle = spread(self, to, scalar)
        if scalar.data.dtype == np.bool_:
            handle.data = handle.data.astype(np.bool_)
        return handle

    interpreter.InterpreterBuilder.create_splat = spread_truth


def _nothing() -> None:
    pass
