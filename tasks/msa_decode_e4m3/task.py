"""Hooks of the MSA decoding task over e4m3 caches. Inputs and mathematics are kopt.msa's, shared with the bf16 task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kopt.msa import cache, paged
from kopt.msa.rounding import allowed

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Dims = dict[str, int]

SEPARABLE = ("B",)
# Any queries go with any cache.
GROUPS = (("q", "iq"), ("kc", "vc", "ikc", "scales", "table", "lens"))


def make_inputs(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    return cache.make_inputs(dims, family, seed, device, e4m3=True)


def make_integers(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    return cache.make_integers(dims, family, seed, device)


def reference(inputs: Tensors, dims: Dims) -> Tensors:
    """out [B, HQ, 128] float64."""
    return {"out": paged.decode_rows(inputs, errors=False).out}


def bound(inputs: Tensors, expected: Tensors, dims: Dims) -> Tensors:
    """Largest error allowed to each element of out, [B, HQ, 128] float64."""
    return {"out": allowed(paged.decode_rows(inputs))}


def slices(inputs: Tensors, dims: Dims, dim: str, index: torch.Tensor) -> tuple[Tensors, Tensors]:
    """Expected values of the requests `index` and the bounds on their errors, by output."""
    rows = paged.decode_rows(inputs, index)
    return {"out": rows.out}, {"out": allowed(rows)}


def slices_of_calls(several: Sequence[Tensors], dims: Dims, dim: str, index: torch.Tensor) -> tuple[Tensors, Tensors]:
    """The same of many calls, [calls, requests, HQ, 128]: one by one it takes hundreds of operations a call."""
    rows = paged.decode_calls(several, index)
    apart = (len(several), len(index))
    return {"out": rows.out.unflatten(0, apart)}, {"out": allowed(rows).unflatten(0, apart)}


def cost(dims: Dims, family: str) -> dict[str, float]:
    return paged.cost(dims, family, itemsize=1)
