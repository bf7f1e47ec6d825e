"""What the families of kernels/msa_prefill say of input that they do not take, and what NaN does in short prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import further, gaps, load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

HERE = Path(__file__).parent
FAMILIES = sorted((HERE.parents[1] / "kernels" / "msa_prefill").glob("*.py"))
BF16, INT32 = torch.bfloat16, torch.int32

Tensors = dict[str, torch.Tensor]


def tensors(keys: int) -> Tensors:
    return {
        "q": torch.zeros(6, 16, 128, dtype=BF16),
        "k": torch.zeros(keys, 2, 128, dtype=BF16),
        "v": torch.zeros(keys, 2, 128, dtype=BF16),
        "iq": torch.zeros(6, 2, 128, dtype=BF16),
        "ik": torch.zeros(keys, 128, dtype=BF16),
        "cu_q": torch.tensor([0, 6], dtype=INT32),
        "cu_k": torch.tensor([0, keys], dtype=INT32),
        "out": torch.zeros(6, 16, 128, dtype=BF16),
    }


WRONG = {
    "dtype": lambda t: t.to(torch.float64),
    "sizes|sequence": lambda t: t[:0],
    "dimensions": lambda t: t[None],
    "contiguous": gaps,
    "aligned": further,
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda path: path.stem)
def family(request: pytest.FixtureRequest) -> Any:
    return load(request.param).msa_prefill


@pytest.mark.parametrize("keys", [300, 2200], ids=["dense", "sparse"])
@pytest.mark.parametrize("what", WRONG)
def test_a_tensor_that_is_not_taken_is_named_whatever_the_length(what: str, keys: int, family: Any) -> None:
    for name in tensors(keys):
        given = tensors(keys)
        given[name] = WRONG[what](given[name])
        # What is left out of one may be missed in another that goes with it.
        culprit = r"\w+" if what.startswith("sizes") else name
        with pytest.raises(
            ValueError, match=rf"^{culprit}: .*({what}).*msa_prefill takes|^{culprit}: .*({what}).*pass"
        ):
            family(**given)


@pytest.mark.parametrize("keys", [300, 2200], ids=["dense", "sparse"])
def test_heads_that_do_not_belong_together_are_named(keys: int, family: Any) -> None:
    cases = {
        "q": {name: torch.zeros(6, 20, 128, dtype=BF16) for name in ("q", "out")},
        "v": {"v": torch.zeros(keys, 1, 128, dtype=BF16)},
        "iq": {"iq": torch.zeros(6, 1, 128, dtype=BF16)},
        "ik": {"ik": torch.zeros(keys - 1, 128, dtype=BF16)},
    }
    for name, change in cases.items():
        with pytest.raises(ValueError, match=f"^{name}: .*msa_prefill takes"):
            family(**{**tensors(keys), **change})


@pytest.mark.parametrize("keys", [300, 2200], ids=["dense", "sparse"])
def test_what_is_right_is_not_refused(keys: int, family: Any) -> None:
    # No GPU: it fails where the kernel is launched, and not before.
    with pytest.raises(Exception) as caught:
        family(**tensors(keys))
    assert "takes" not in str(caught.value)


def test_of_a_short_prompt_a_nan_shows_where_it_is_seen_and_nowhere_else() -> None:
    command = [sys.executable, str(HERE / "msa_prefill_nan.py"), *map(str, FAMILIES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 3 * len(FAMILIES)
    for name, row in found.items():
        assert row["shows"], name
        assert row["hidden"], name
        assert row["error"] < 0.05, name
