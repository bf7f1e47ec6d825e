"""Tensors as plain bytes, one after the other in row-major order: how they travel between processes, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, TypedDict

from kopt.records.task import ITEMSIZE

if TYPE_CHECKING:
    import torch

    from kopt.records import TensorSpec


class Layout(TypedDict):
    """One tensor of a file."""

    name: str
    dtype: str
    """A name that torch knows: "bfloat16", "float8_e4m3fn", ..."""
    sizes: list[int]


def layout(specs: Sequence[TensorSpec], dims: Mapping[str, int]) -> list[Layout]:
    return [Layout(name=s.name, dtype=s.dtype, sizes=list(s.sizes(dims))) for s in specs]


def nbytes(layouts: Sequence[Layout]) -> int:
    return sum(prod(item["sizes"]) * ITEMSIZE[item["dtype"]] for item in layouts)


def pack(tensors: Sequence[torch.Tensor]) -> bytes:
    """The bytes of tensors of any device, without what lies between the elements of a view."""
    import torch

    return b"".join(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors)


def unpack(data: bytes, layouts: Sequence[Layout]) -> dict[str, torch.Tensor]:
    """Fresh tensors by name, each with an allocation of its own; ValueError when the size is not the layout's."""
    import torch

    if len(data) != nbytes(layouts):
        raise ValueError(f"{len(data)} bytes where the tensors need {nbytes(layouts)}")
    found, at = {}, 0
    for item in layouts:
        size = nbytes([item])
        # A copy: torch aligns its own allocations to 64 bytes, which a slice of `data` is not.
        tensor = torch.empty(item["sizes"], dtype=getattr(torch, item["dtype"]))
        if size:
            raw = torch.frombuffer(bytearray(data[at : at + size]), dtype=torch.uint8)
            tensor.reshape(-1).view(torch.uint8).copy_(raw)
        found[item["name"]] = tensor
        at += size
    return found
