"""Launches on integers are really run, so that what they steer can be counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KV_OUTER = HERE.parents[2] / "kernels" / "msa_attend" / "kv_outer.py"
IDS = [2, 0, 3, 3, 3, 2, 7, 3, 0, 2, 3, 3, 7, 7, 3, 2, 3]
BINS: list[Any] = [["ids", "int32", [17], IDS], ["x", "float32", [17, 16]], ["out", "float32", [8, 16]]]


def counted(requests: list[dict[str, Any]], seconds: float = 1e9) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, str(HERE / "interpret.py"), "sampled"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "SECONDS": str(seconds)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def request(name: str, entry: str, tensors: list[Any], file: Path = HERE / "kernels.py", **parameters: int) -> Any:
    return {"name": name, "file": str(file), "entry": entry, "tensors": tensors, "parameters": parameters}


def loaded(launch: Any, buffer: str) -> float:
    """Bytes that a launch loads from a buffer."""
    counts = launch["counts"]
    each = sum(t["bytes"] for loop in counts["loops"] for t in loop["traffic"] if t["buffer"] == buffer)
    return float(counts["programs"] * each)


@pytest.fixture(scope="module")
def bins() -> dict[str, Any]:
    floats: list[Any] = [["x", "float32", [8, 16]], ["out", "float32", [8, 16]]]
    return counted([request("known", "bins", BINS), request("floats", "bins_of_floats", floats)])


def test_a_loop_is_as_long_as_an_earlier_launch_counted(bins: dict[str, Any]) -> None:
    *built, last = bins["known"]["launches"]
    assert [launch["counts"]["complete"] for launch in built] == [True, True]
    assert loaded(last, "x") == len(IDS) * 16 * 4
    assert last["counts"]["warnings"] == []


def test_what_comes_from_floats_stays_unknown(bins: dict[str, Any]) -> None:
    last = bins["floats"]["launches"][-1]
    assert any("depends on data" in warning for warning in last["counts"]["warnings"])


def test_beyond_the_budget_nothing_is_run() -> None:
    last = counted([request("known", "bins", BINS)], seconds=0.0)["known"]["launches"][-1]
    assert any("depends on data" in warning for warning in last["counts"]["warnings"])


def test_where_a_budget_ends_is_no_question_of_time() -> None:
    # Six launches of some 0.3 s: this ends within them. Twice on a busy machine, and nothing differs.
    first, second = (
        [launch["counts"] for launch in counted([uneven(64)], seconds=0.05)["rows"]["launches"]] for _ in range(2)
    )
    assert any(counts.get("hurried") for counts in first)
    assert first == second


TOKENS, BLOCKS = 256, 24
# Block 0 for everybody, and three of a slowly moving dozen: rows of very different length.
LISTS = [sorted({0, (i // 9) % 12 + 8, (i * 7) % 11 + 1, 23}) for i in range(TOKENS)]


def uneven(cap: int) -> Any:
    tokens, blocks = TOKENS, BLOCKS
    tensors: list[Any] = [
        ["q", "bfloat16", [tokens, 16, 128]],
        *([name, "bfloat16", [blocks * 128 + tokens, 1, 128]] for name in ("k", "v")),
        ["ids", "int32", [1, tokens, 16], [[row + [-1] * (16 - len(row)) for row in LISTS]]],
        ["cu_q", "int32", [2], [0, tokens]],
        ["cu_k", "int32", [2], [0, blocks * 128 + tokens]],
        ["out", "bfloat16", [tokens, 16, 128]],
    ]
    return request("rows", "msa_attend", tensors, KV_OUTER, ROWS=128, CAP=cap)


def test_sampled_work_of_an_uneven_launch_is_close_to_all_of_it() -> None:
    cap = 64
    launches = counted([uneven(cap)])["rows"]["launches"]
    partial = next(launch["counts"] for launch in launches if launch["name"] == "partial_kernel")
    done = partial["programs"] * sum(m["count"] for loop in partial["loops"] for m in loop["mma"])
    rows = [sum(block in row for row in LISTS) for block in range(BLOCKS)]
    tiles = sum(-(-min(cap, row - at) // 8) for row in rows for at in range(0, row, cap))
    assert done == pytest.approx(2 * tiles, rel=0.03)
