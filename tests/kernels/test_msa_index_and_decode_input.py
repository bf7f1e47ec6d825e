"""What the families of kernels/msa_index and kernels/msa_decode say of input that they do not take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import further, gaps, load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

KERNELS = Path(__file__).parents[2] / "kernels"
BF16, E4M3, INT32 = torch.bfloat16, torch.float8_e4m3fn, torch.int32
SIZES: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {
    "msa_index": {
        "iq": ((6, 2, 128), BF16),
        "ik": ((200, 128), BF16),
        "cu_q": ((3,), INT32),
        "cu_k": ((3,), INT32),
        "ids": ((2, 6, 16), INT32),
    },
    "msa_decode": {
        "q": ((3, 16, 128), BF16),
        "kc": ((5, 2, 128, 128), BF16),
        "vc": ((5, 2, 128, 128), BF16),
        "iq": ((3, 2, 128), BF16),
        "ikc": ((5, 128, 128), BF16),
        "table": ((3, 1), INT32),
        "lens": ((3,), INT32),
        "out": ((3, 16, 128), BF16),
    },
}
SIZES["msa_decode_e4m3"] = {
    name: (size, E4M3 if name in ("kc", "vc", "ikc") else dtype) for name, (size, dtype) in SIZES["msa_decode"].items()
} | {"scales": ((2,), torch.float32)}
FAMILIES = [(task, path) for task in SIZES for path in sorted((KERNELS / task).glob("*.py"))]


def tensors(task: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in SIZES[task].items()}


def longer(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros((*tensor.shape[:-1], tensor.shape[-1] + 1), dtype=tensor.dtype)


WRONG = {
    "dtype": lambda t: t.to(torch.float64),
    "sizes": lambda t: t[:0],
    "sizes|dimensions": lambda t: t[None],
    "contiguous": gaps,
    "aligned": further,
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: f"{family[0]}-{family[1].stem}")
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    task, path = request.param
    return task, getattr(load(path), task)


@pytest.mark.parametrize("what", WRONG)
def test_a_tensor_that_is_not_taken_is_named(what: str, family: tuple[str, Any]) -> None:
    task, entry = family
    for name in SIZES[task]:
        given = tensors(task)
        given[name] = WRONG[what](given[name])
        # What is left out of one may be missed in another that goes with it.
        culprit = r"\w+" if what == "sizes" else name
        with pytest.raises(ValueError, match=rf"^{culprit}: .*({what})"):
            entry(**given)


def test_sizes_of_heads_are_named(family: tuple[str, Any]) -> None:
    task, entry = family
    for name in ("iq",) if task == "msa_index" else ("q", "kc", "vc", "iq", "ikc"):
        given = tensors(task)
        given[name] = longer(given[name])
        with pytest.raises(ValueError, match=f"^{name}: .*129"):
            entry(**given)
    if task != "msa_index":
        given = tensors(task)
        given["q"] = given["out"] = torch.zeros((3, 20, 128), dtype=BF16)
        with pytest.raises(ValueError, match=r"^q: 20 query heads over 2"):
            entry(**given)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f[0] != "msa_index"], ids=lambda f: f[0], indirect=True)
def test_more_kv_heads_than_a_product_has_rows_are_refused(family: tuple[str, Any]) -> None:
    task, entry = family
    given = tensors(task)
    for name, axis in (("q", 1), ("kc", 1), ("vc", 1), ("iq", 1), ("out", 1)):
        given[name] = torch.cat([given[name]] * 9, dim=axis)
    with pytest.raises(ValueError, match=rf"^kc: 18 KV heads; {task} takes 16 at most"):
        entry(**given)


def test_what_is_right_is_not_refused(family: tuple[str, Any]) -> None:
    task, entry = family
    # No GPU: it fails where the kernel is launched, and not before.
    with pytest.raises(Exception) as caught:
        entry(**tensors(task))
    assert f"{task} takes" not in str(caught.value)
