"""Arguments of a launch: as the interpreter sees them, and what of them makes two launches the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from kopt.evaluate.worker.counting.executing import tensors
from kopt.evaluate.worker.counting.memory import AddressSpace, digest


def convert(value: Any, space: AddressSpace) -> Any:
    """A launch argument as the interpreter sees it, with made-up addresses."""
    if isinstance(value, TensorDescriptor):
        return interpreter.interpreter_semantic.make_tensor_descriptor(
            base=convert(value.base, space),
            shape=[convert(s, space) for s in value.shape],
            strides=[*(convert(s, space) for s in value.strides[:-1]), tl.constexpr(1)],
            block_shape=[tl.constexpr(b) for b in value.block_shape],
            padding_option=value.padding,
        )
    if isinstance(value, tuple):
        items = [convert(item, space) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    tensor = getattr(value, "base", value)  # a TensorWrapper reinterprets the dtype of its base
    if hasattr(tensor, "untyped_storage"):
        kind = tl.str_to_ty(_mangled(value), None)
        handle = interpreter.TensorHandle(np.array([space.address(tensor)], dtype=np.uint64), kind)
        return tl.tensor(handle, kind)
    return interpreter._implicit_cvt(value)


def identity(fn: Any, dims: tuple[int, int, int], resident: int, bound: dict[str, Any], space: AddressSpace) -> str:
    """Of what the counts depend on: everything but warps and stages."""
    parts = [fn.__name__, fn.__code__.co_firstlineno, dims, resident]
    parts += [(name, _describe(value, space)) for name, value in bound.items()]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def dimensions(fn: Any, dims: tuple[int, int, int], bound: dict[str, Any]) -> str:
    """What launches in a loop of the host have in common: all but numbers and what tensors hold."""
    constants = {name for name, kind in fn.__annotations__.items() if "constexpr" in str(kind)}
    parts: list[Any] = [fn.__name__, fn.__code__.co_firstlineno, dims]
    for name, value in bound.items():
        if name in constants:
            parts.append(repr(value))
        elif isinstance(value, TensorDescriptor):
            parts.append([str(value.shape), str(value.block_shape)])
        else:
            parts += [[str(tensor.dtype), list(tensor.shape)] for tensor in tensors(value)]
    return json.dumps(parts, default=str)


def _describe(value: Any, space: AddressSpace) -> Any:
    if isinstance(value, TensorDescriptor):
        fields = (value.shape, value.strides, value.block_shape, value.padding)
        return ["descriptor", *map(str, fields), _describe(value.base, space)]
    tensor = getattr(value, "base", value)
    if hasattr(tensor, "untyped_storage"):
        buffer = space.of(tensor)
        offset = int(tensor.storage_offset())
        return [buffer.name, str(value.dtype), buffer.nbytes, offset, buffer.written, digest(buffer)]
    return repr(value)


def _mangled(value: Any) -> str:
    from triton.runtime.jit import mangle_type

    return str(mangle_type(value))
