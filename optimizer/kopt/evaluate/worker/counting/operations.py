"""Operations of the interpreter that need no understanding: elementwise ones are counted, all keep ghosts ghosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from kopt.evaluate.worker.counting.arrays import Ghost, flat, is_flat, known, spread, squeeze

_FLOAT = ("fadd", "fsub", "fmul", "fma", "minimumf", "maximumf", "minnumf", "maxnumf", "clampf", "fabs", "floor",
          "ceil", "fneg")  # fmt: skip
_SPECIAL = ("fdiv", "precise_divf", "approx_divf", "frem", "exp", "exp2", "log", "log2", "sin", "cos", "sqrt",
            "precise_sqrt", "rsqrt", "erf")  # fmt: skip
_INT = ("add", "sub", "mul", "sdiv", "udiv", "srem", "urem", "shl", "lshr", "ashr", "umulhi", "iabs", "minsi", "minui",
        "maxsi", "maxui", "and", "or", "xor", "icmpSLE", "icmpSLT", "icmpSGE", "icmpSGT", "icmpULE", "icmpULT",
        "icmpUGE", "icmpUGT", "icmpEQ", "icmpNE", "select")  # fmt: skip
_COMPARE = ("fcmpOLT", "fcmpOGT", "fcmpOLE", "fcmpOGE", "fcmpOEQ", "fcmpONE", "fcmpULT", "fcmpUGT", "fcmpULE",
            "fcmpUGE", "fcmpUEQ", "fcmpUNE")  # fmt: skip
_SHAPE = ("reshape", "trans", "expand_dims", "broadcast")


def attach(builder: type[Any]) -> None:
    """Give a subclass of InterpreterBuilder with a `tally` the counting versions of all of these."""
    for names, kind in ((_FLOAT, "float"), (_SPECIAL, "special"), (_COMPARE, "compare"), (_INT, "int")):
        for name in names:
            stock = getattr(InterpreterBuilder, f"create_{name}", None)
            if stock is not None:  # some came or went between versions
                setattr(builder, f"create_{name}", _elementwise(stock, "select" if name == "select" else kind))
    for name in _SHAPE:
        setattr(builder, f"create_{name}", _reshaping(getattr(InterpreterBuilder, f"create_{name}")))


def like(src: Any, dst_type: Any) -> Any:
    """Zeros of another type in the shape of `src`, as unknown as `src` is."""
    handle = TensorHandle if known(src) else Ghost
    return handle(flat(src.data.shape, interpreter._get_np_dtype(dst_type)), dst_type.scalar)


def _elementwise(stock: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """The counting version of one elementwise operation of the stock interpreter."""

    def operation(self: Any, *args: Any) -> Any:
        handles = [a for a in args if isinstance(a, TensorHandle)]
        widest = max(handles, key=lambda h: h.data.size)
        self.tally.operation(kind, widest.data.size)
        unknown = any(isinstance(h, Ghost) for h in handles)
        last = handles[-1]
        if unknown and (kind in ("float", "special") or (kind == "select" and last.dtype.scalar.is_floating())):
            return Ghost(flat(widest.data.shape, last.data.dtype), last.dtype.scalar)
        if unknown and kind == "compare":
            return Ghost(flat(widest.data.shape, np.dtype(bool)), last.dtype.scalar)
        if widest.data.size > 1 and all(is_flat(h.data) for h in handles):
            small = [TensorHandle(squeeze(a.data), a.dtype) if isinstance(a, TensorHandle) else a for a in args]
            result = stock(self, *small)
            return (Ghost if unknown else TensorHandle)(spread(result.data, widest.data.shape), result.dtype)
        result = stock(self, *args)
        return Ghost(result.data, result.dtype) if unknown else result

    return operation


def _reshaping(stock: Callable[..., Any]) -> Callable[..., Any]:
    def operation(self: Any, arg: Any, *args: Any) -> Any:
        result = stock(self, arg, *args)
        return result if known(arg) else Ghost(result.data, result.dtype)

    return operation
