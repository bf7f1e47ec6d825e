"""bench/msa.py without a GPU: the whole script runs, every stage is launched, and no number is shown as measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")
def test_a_rehearsal_measures_nothing_and_says_so(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "bench" / "msa.py"),
            "--no-model",
            "--regimes",
            "random",
            "--json",
            str(tmp_path / "j"),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads((tmp_path / "j").read_text())
    if found["gpu"] is not None:
        pytest.skip("there is a GPU")
    assert all(row["us"] is None and row["evidence"] == "not measured" for row in found["rows"])
    assert {goal["basis"] for goal in found["goals"] if goal["holds"] is not None} == {"arithmetic"}
    launched = next(line for line in ran.stdout.splitlines() if line.startswith("rehearsed launches"))
    for stage in ("index", "invert", "attend", "combine"):
        assert f"{stage} " in launched


@pytest.mark.parametrize(("read", "held", "room", "number"), [
    (6.3e6, 19e6, 130e9, 82),  # a short cache is read whole: 82 of them are 512 MB
    (71e6, 604e6, 130e9, 8),  # of a long one little is read
    (268e6, 2.4e9, 130e9, 2),
    (4e9, 36e9, 130e9, 1),
    (71e6, 604e6, 2e9, 3),
    (4e9, 36e9, 30e9, 0),
])  # fmt: skip
def test_inputs_return_when_several_caches_have_been_read(read: float, held: float, room: float, number: int) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    from msa_stages import copies

    assert copies(read, held, room) == number
