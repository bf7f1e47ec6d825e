"""What a launch was given, written down so that it can be launched again elsewhere (`kopt.evaluate.recipe`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def arguments(signature: Mapping[Any, Any], values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every argument of a kernel, constexprs included, in order, as JSON: addresses are those of this process.

    `signature` is the source's: a type per argument, "constexpr" or a tuple of types.
    """
    if len(signature) != len(values):
        return [{"type": "unknown", "unknown": f"{len(values)} arguments for {len(signature)} parameters"}]
    with torch._C.DisableTorchFunction():
        return [_argument(type, value) for type, value in zip(signature.values(), values, strict=True)]


def filled(tensor: torch.Tensor, value: Any) -> dict[str, Any] | None:
    """A tensor that was set to one value everywhere; None where it cannot be described so simply."""
    if isinstance(value, torch.Tensor) or not isinstance(value, int | float) or not tensor.is_contiguous():
        return None
    with torch._C.DisableTorchFunction():
        return {**_memory(tensor), "type": "fill", "value": _number(value), "extent": tensor.numel()}


def _argument(type: Any, value: Any) -> dict[str, Any]:
    if isinstance(type, tuple | list):
        items = tuple(value) if isinstance(value, tuple | list) else ()
        if len(items) != len(type):
            return {"type": "unknown", "unknown": "a tuple of another length"}
        return {"type": "tuple", "items": [_argument(t, v) for t, v in zip(type, items, strict=True)]}
    type = str(type)
    if type == "constexpr":
        inner = getattr(value, "value", value)
        plain = inner is None or isinstance(inner, bool | int | str)
        return {"type": type, "value": inner if plain else _number(inner) if isinstance(inner, float) else repr(inner),
                "plain": plain or isinstance(inner, float)}  # fmt: skip
    if type.startswith("tensordesc") and hasattr(value, "base"):
        return {
            "type": type,
            **_memory(value.base),
            "shape": [int(n) for n in value.shape],
            "strides": [int(n) for n in value.strides],
            "block": [int(n) for n in value.block_shape],
            "nan": getattr(value, "padding", "zero") == "nan",
            "tf32": bool(getattr(value, "round_f32_to_tf32", False)),
        }
    if type.startswith("*"):
        tensor = getattr(value, "base", value) if not isinstance(value, torch.Tensor) else value
        if isinstance(tensor, torch.Tensor):
            return {"type": type, **_memory(tensor)}
        return {"type": "unknown", "unknown": f"a pointer that is no tensor but {value.__class__.__name__}"}
    if isinstance(value, bool | int | float):
        return {"type": type, "value": _number(value)}
    return {"type": "unknown", "unknown": f"{type} given as {value.__class__.__name__}"}


def _memory(tensor: torch.Tensor) -> dict[str, Any]:
    storage = tensor.untyped_storage()
    return {
        "address": tensor.data_ptr(),
        "storage": storage.data_ptr(),
        "nbytes": storage.nbytes(),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }


def _number(value: float) -> float | str:
    """JSON has no infinities; a string that float() reads stands for one."""
    return value if value == value and value not in (float("inf"), float("-inf")) else str(float(value))
