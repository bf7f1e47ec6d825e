"""Decoding beyond what the numerics stage can afford: long lists, and queries of any size over e4m3 caches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"


def interpreted(script: str, kernel: Path) -> Any:
    command = [sys.executable, str(HERE / script), str(kernel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> Any:
    return interpreted("msa_decode_long.py", KERNELS / "msa_decode" / "split_k.py")


def test_every_list_is_that_of_a_sorted_order(found: Any) -> None:
    assert len(found["lists"]) == 120
    assert not [name for name, right in found["lists"].items() if not right]


def test_calls_over_a_thousand_pages_agree_with_the_reference(found: Any) -> None:
    assert len(found["calls"]) == 2
    assert all(off < 4e-3 for off in found["calls"].values()), found["calls"]


def test_queries_of_any_size_are_taken_to_fp16_and_back_without_a_trace() -> None:
    same = interpreted("msa_decode_sizes.py", KERNELS / "msa_decode_e4m3" / "split_k.py")
    assert len(same) == 12
    assert all(same.values()), same
