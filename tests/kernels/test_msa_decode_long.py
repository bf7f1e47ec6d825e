"""Lists of requests longer than those that the numerics stage can afford."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

HERE = Path(__file__).parent
SPLIT_K = HERE.parents[1] / "kernels" / "msa_decode" / "split_k.py"


@pytest.fixture(scope="module")
def found() -> Any:
    command = [sys.executable, str(HERE / "msa_decode_long.py"), str(SPLIT_K)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_list_is_that_of_a_sorted_order(found: Any) -> None:
    assert len(found["lists"]) == 120
    assert not [name for name, right in found["lists"].items() if not right]


def test_calls_over_a_thousand_pages_agree_with_the_reference(found: Any) -> None:
    assert len(found["calls"]) == 2
    assert all(off < 4e-3 for off in found["calls"].values()), found["calls"]
