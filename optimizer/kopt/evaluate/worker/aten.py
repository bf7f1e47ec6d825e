"""Records the ATen operations of host code, and answers the expensive ones with an empty tensor of the right shape.

A 4096-cubed matmul takes half a minute on a CPU, and touching an operand costs its memory; neither says anything about
the kernel. Small operations run for real, because host code may decide by their values; so does index arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from kopt.evaluate.worker import recording
from kopt.evaluate.worker.tape import Tape

_SMALL = 1 << 16
"""Elements up to which floating-point operations run for real."""
_LARGE = 1 << 26
"""Elements from which nothing runs for real."""
_READS = frozenset(("_local_scalar_dense", "is_nonzero", "equal"))


_FILLS = frozenset(("zeros", "ones", "full", "zero_", "fill_", "new_zeros", "zeros_like", "ones_like"))


class Recorded(TorchDispatchMode):  # type: ignore[misc]
    """Puts every operation on the tape, with the elements of its largest tensor and the bytes of all of them."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the whole of torch._dynamo, 3 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        with torch._C.DisableTorchFunction():
            tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
            event = {"aten": name, "elements": max((t.numel() for t in tensors), default=0), "bytes": 0}
            self._tape.add(event)
            if name in _READS:
                self._tape.note("the host reads values of tensors, which are placeholders while tracing")
            result = _result(func, name, tensors, args, kwargs)
            if name in _FILLS:
                event["fill"] = _fill(name, result, args)
            if not func.is_view:
                results = [r for r in tree_flatten(result)[0] if isinstance(r, torch.Tensor)]
                event["bytes"] = sum(t.nbytes for t in {id(t): t for t in (*tensors, *results)}.values())
            return result


def _fill(name: str, result: Any, args: Any) -> dict[str, Any] | None:
    """What a launch on the recorded addresses would have to do first; None when that is no one value."""
    value = args[1] if name in ("full", "fill_") else 1 if name.startswith("ones") else 0
    return recording.filled(result, value) if isinstance(result, torch.Tensor) else None


def _result(func: Any, name: str, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> Any:
    if func.is_view or not _expensive(tensors):
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        return _written(func, args, kwargs)
    if (rule := _RULES.get(name)) is not None:
        return rule(*args, **kwargs)
    if torch.Tag.pointwise in func.tags:
        return _pointwise(name, tensors)
    try:
        return _by_meta(func, args, kwargs)
    except (NotImplementedError, RuntimeError, TypeError):
        return func(*args, **kwargs)  # its shape depends on values


def _expensive(tensors: list[torch.Tensor]) -> bool:
    most = max((t.numel() for t in tensors), default=0)
    return most > _LARGE or (most > _SMALL and any(t.is_floating_point() for t in tensors))


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation that writes into its arguments returns: those arguments."""
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    written = [named[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    returns = len(func._schema.returns)
    if not returns:
        return None
    return written[0] if returns == 1 else tuple(written[:returns])


def _same(tensor: torch.Tensor, *args: Any, dtype: Any = None, memory_format: Any = None, **kwargs: Any) -> Any:
    if memory_format is torch.contiguous_format:
        return torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    return torch.empty_like(tensor, dtype=dtype)


def _mm(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype)


def _scaled_mm(a: torch.Tensor, b: torch.Tensor, *args: Any, out_dtype: Any = None, **kwargs: Any) -> torch.Tensor:
    # Positional: scale_a, scale_b, bias, scale_result, out_dtype, use_fast_accum.
    dtype = out_dtype or (args[4] if len(args) > 4 else None) or a.dtype
    return torch.empty((a.shape[0], b.shape[-1]), dtype=dtype)


# By hand what candidates do: torch's own shape functions import sympy and more, 1 to 4 s, when they are first needed.
_RULES: dict[str, Callable[..., torch.Tensor]] = {
    "mm": _mm,
    "bmm": _mm,
    "_scaled_mm": _scaled_mm,
    "_int_mm": lambda a, b: torch.empty((a.shape[0], b.shape[1]), dtype=torch.int32),
    "addmm": lambda bias, a, b, **_: _mm(a, b),
    "baddbmm": lambda bias, a, b, **_: _mm(a, b),
    "_to_copy": _same,
    "clone": _same,
    "contiguous": _same,
    "_softmax": lambda tensor, dim, half_to_float: _same(tensor),
    **{f"{name}_like": _same for name in ("empty", "zeros", "ones", "full", "rand", "randn")},
}
_TRUTHS = frozenset("eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor".split())


def _pointwise(name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    dtype = tensors[0].dtype
    for other in tensors[1:]:
        dtype = torch.promote_types(dtype, other.dtype) if other.dim() else dtype
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    return torch.empty(shape, dtype=torch.bool if name in _TRUTHS else dtype)


def _by_meta(func: Any, args: Any, kwargs: Any) -> Any:
    def meta(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def real(tensor: torch.Tensor) -> torch.Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        return empty.zero_() if tensor.numel() <= _SMALL else empty

    args, kwargs = tree_map_only(torch.Tensor, meta, (args, kwargs))
    if "device" in kwargs:
        kwargs["device"] = torch.device("meta")
    return tree_map_only(torch.Tensor, real, func(*args, **kwargs))
