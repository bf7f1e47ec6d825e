"""What the families of kernels/msa_attend say of input that they do not take, and do with lists beyond the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import further, load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

HERE = Path(__file__).parent
FAMILIES = sorted((HERE.parents[1] / "kernels" / "msa_attend").glob("*.py"))

Tensors = dict[str, torch.Tensor]


def tensors() -> Tensors:
    bf16, int32 = torch.bfloat16, torch.int32
    return {
        "q": torch.zeros(6, 16, 128, dtype=bf16),
        "k": torch.zeros(200, 1, 128, dtype=bf16),
        "v": torch.zeros(200, 1, 128, dtype=bf16),
        "ids": torch.zeros(1, 6, 16, dtype=int32),
        "cu_q": torch.tensor([0, 6], dtype=int32),
        "cu_k": torch.tensor([0, 200], dtype=int32),
        "out": torch.zeros(6, 16, 128, dtype=bf16),
    }


WRONG = {
    "q in fp16": ("q", lambda t: t["q"].half(), "q: .*dtype"),
    "ids in int64": ("ids", lambda t: t["ids"].long(), "ids: .*dtype"),
    "offsets in int64": ("cu_k", lambda t: t["cu_k"].long(), "cu_k: .*dtype"),
    "head dimension of 64": ("q", lambda t: t["q"][..., :64].contiguous(), "q: .*64"),
    "head dimension of 192 in k": ("k", lambda t: t["k"].repeat(1, 1, 2)[..., :192].contiguous(), "k: .*192"),
    "20 heads over one": ("q", lambda t: torch.zeros(6, 20, 128, dtype=torch.bfloat16), "q: .*20"),
    "lists of 8": ("ids", lambda t: t["ids"][..., :8].contiguous(), "ids: .*8"),
    "lists for other queries": ("ids", lambda t: t["ids"][:, :5].contiguous(), "ids: "),
    "fewer values than keys": ("v", lambda t: t["v"][:199], "v: "),
    "out of other sizes": ("out", lambda t: t["out"][:5], "out: "),
    "offsets of other lengths": ("cu_k", lambda t: torch.tensor([0, 100, 200], dtype=torch.int32), "cu_k: "),
    "q without its token dimension": ("q", lambda t: t["q"][0], "q: .*dimensions"),
    "k not contiguous": ("k", lambda t: torch.zeros(200, 2, 128, dtype=torch.bfloat16)[:, :1], "k: .*contiguous"),
    "out not contiguous": ("out", lambda t: t["out"].transpose(0, 1).contiguous().transpose(0, 1), "out: .*contiguous"),
    "q not aligned": ("q", lambda t: further(t["q"]), "q: .*align"),
    "v not aligned": ("v", lambda t: further(t["v"]), "v: .*align"),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda path: path.stem)
def family(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


@pytest.mark.parametrize("case", WRONG)
def test_what_shows_without_looking_at_values_is_a_value_error_that_names_the_argument(case: str, family: Any) -> None:
    name, change, message = WRONG[case]
    given = tensors()
    given[name] = change(given)
    with pytest.raises(ValueError, match=f"^{message}"):
        family.msa_attend(**given)


def test_what_is_right_is_not_refused(family: Any) -> None:
    given = tensors()
    # No GPU: it fails where the kernel is launched, and not before.
    with pytest.raises(Exception) as caught:
        family.msa_attend(**given)
    assert not isinstance(caught.value, ValueError) or "msa_attend takes" not in str(caught.value)


def test_a_block_listed_twice_weighs_once_or_twice_and_touches_no_other_query() -> None:
    command = [sys.executable, str(HERE / "msa_attend_twice.py"), *map(str, FAMILIES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found) == {path.stem for path in FAMILIES}
    for result in found.values():
        assert result["off"] < 1e-2
        assert result["others"]
