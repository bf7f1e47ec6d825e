"""What the counting interpreter counts is what the stock one touches, byte for byte and line for line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "kernels" / "fp8_gemm"
ATTEND = HERE.parents[2] / "kernels" / "msa_attend"
OTHERS = HERE / "kernels.py"

Case = tuple[Path, str, list[Any], dict[str, Any]]


def gemm(family: str, m: int, n: int, k: int, **parameters: Any) -> Case:
    tensors = [
        ["a", "float8_e4m3fn", [m, k]],
        ["b", "float8_e4m3fn", [n, k]],
        ["scale_a", "float32", [1]],
        ["scale_b", "float32", [1]],
        ["out", "bfloat16", [m, n]],
    ]
    return KERNELS / f"{family}.py", "fp8_gemm", tensors, parameters


_SMALL = {"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 32}
_BINS = [2, 0, 3, 3, 3, 2, 7, 3, 0, 2, 3, 3, 7, 7, 3, 2, 3]


def lists(queries: int) -> list[list[list[int]]]:
    """Of two heads, 16 blocks a query: out of order, one twice, one beyond the sequence, and none at the end."""
    return [
        [[(i + h) % 3, 2, (i * 5 + h) % 3, 0, 9] + [-1] * 11 for i in range(queries - 1)] + [[-1] * 16] for h in (0, 1)
    ]


_IDS = [[3, 1, 0, 0, 0, 0, 0, 0], [5, -1, 2, 7, 0, 0, 0, 0], [0] * 8, [7, 6, 5, 4, 3, 2, 1, 0]]
CASES: dict[str, Case] = {
    "naive": gemm("naive", 130, 80, 112, **_SMALL),
    "pointers": gemm("k_major", 130, 80, 112, **_SMALL, GROUP_M=2),
    "descriptors": gemm("tma", 130, 80, 112, **_SMALL, GROUP_M=2),
    "split": gemm("split_k", 70, 48, 272, **_SMALL, SPLIT_K=2),
    "flash": (
        OTHERS,
        "flash",
        [[name, "bfloat16", [2, 75, 32]] for name in ("q", "k", "v", "out")],
        {"BLOCK_M": 32, "BLOCK_N": 16},
    ),
    "gather": (
        OTHERS,
        "gather",
        [
            ["ids", "int32", [4, 8], _IDS],
            ["counts", "int32", [4], [3, 4, 0, 8]],
            ["x", "bfloat16", [64, 64]],
            ["out", "float32", [4, 64]],
        ],
        {},
    ),
    "while": (
        OTHERS,
        "promoted",
        [["a", "bfloat16", [16, 144]], ["b", "bfloat16", [16, 144]], ["out", "float32", [16, 16]]],
        {},
    ),
    "bins": (
        OTHERS,
        "bins",
        [["ids", "int32", [17], _BINS], ["x", "float32", [17, 16]], ["out", "float32", [8, 16]]],
        {},
    ),
    "kv_outer": (
        ATTEND / "kv_outer.py",
        "msa_attend",
        [
            ["q", "bfloat16", [23, 16, 128]],
            ["k", "bfloat16", [431, 2, 128]],
            ["v", "bfloat16", [431, 2, 128]],
            ["ids", "int32", [2, 23, 16], lists(23)],
            ["cu_q", "int32", [4], [0, 1, 1, 23]],
            ["cu_k", "int32", [4], [0, 130, 130, 431]],
            ["out", "bfloat16", [23, 16, 128]],
        ],
        {"ROWS": 64, "CAP": 64},
    ),
}


@cache
def interpreted(mode: str) -> Any:
    requests = [
        {"name": name, "file": str(file), "entry": entry, "tensors": tensors, "parameters": parameters}
        for name, (file, entry, tensors, parameters) in CASES.items()
    ]
    ran = subprocess.run(
        [sys.executable, str(HERE / "interpret.py"), mode],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def interpret(mode: str, name: str) -> Any:
    return interpreted(mode)[name]


def rounded(value: Any) -> Any:
    """Sums of the same numbers in another order differ in their last bits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


@pytest.mark.parametrize("name", CASES)
def test_every_program_touches_the_bytes_and_lines_that_the_stock_interpreter_touches(name: str) -> None:
    stock, counted = interpret("stock", name)["touched"], interpret("full", name)["touched"]
    assert stock.keys() == counted.keys()
    assert len(stock) >= 3
    for key, want in stock.items():
        assert counted[key] == want, key


@pytest.mark.parametrize("name", ["naive", "pointers", "descriptors", "flash", "while"])
def test_leaving_iterations_out_changes_no_count(name: str) -> None:
    full, cut = interpret("full", name), interpret("exact", name)
    for whole, part in zip(full["launches"], cut["launches"], strict=True):
        assert rounded(part["counts"]["loops"]) == rounded(whole["counts"]["loops"])
        assert part["counts"]["work"] == whole["counts"]["work"]


def test_a_loop_that_reads_real_ids_is_run_in_full() -> None:
    (launch,) = interpret("exact", "gather")["launches"]
    assert launch["counts"]["complete"]
    rows = next(t for loop in launch["counts"]["loops"] for t in loop["traffic"] if t["buffer"] == "x")
    # Blocks of 8 rows of 128 bytes that the four programs visit, their -1 left out.
    assert rows["bytes"] == (3 + 3 + 0 + 8) * 8 * 128 / 4


def test_flops_are_those_of_the_tiles() -> None:
    (launch,) = interpret("full", "descriptors")["launches"]
    assert sum(
        2 * m["m"] * m["n"] * m["k"] * m["count"] for loop in launch["counts"]["loops"] for m in loop["mma"]
    ) == (
        2 * 64 * 32 * 32 * 4  # ceil(112 / 32) turns of the loop
    )


def test_a_conditional_inside_a_loop_keeps_all_iterations() -> None:
    (launch,) = interpret("exact", "while")["launches"]
    assert launch["counts"]["complete"]
    spans = {tuple(span[:2]): span[2] for span in launch["counts"]["spans"]}
    assert 2.0 in spans.values()  # 9 turns: the branch at every fourth is taken twice
