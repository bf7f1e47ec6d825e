"""Every family's default compiles for every architecture it is meant for, and multiplies FP8 there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.evaluator import Evaluator
from kopt.records import Shape, Submission, digest
from kopt.source import parse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux"),
]

ROOT = Path(__file__).parents[2]
FAMILIES = sorted((ROOT / "kernels" / "fp8_gemm").glob("*.py"))
SHAPE = Shape(name="4k-cube", dims={"M": 4096, "N": 4096, "K": 4096})
OPCODE = {"h200": "QGMMA", "b200": "UTCQMMA", "rtx-pro-6000": "QMMA"}


@pytest.fixture(scope="module", params=OPCODE)
def evaluator(request: pytest.FixtureRequest) -> Iterator[Evaluator]:
    with Evaluator(content.load_task("fp8_gemm", ROOT), target=request.param, shapes=[SHAPE]) as made:
        yield made


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_the_default_compiles_to_fp8_mma_without_spills_or_serialised_mma(path: Path, evaluator: Evaluator) -> None:
    source = parse(path.read_text(encoding="utf-8"), "fp8_gemm")
    if source.archs and evaluator.target.arch not in source.archs:
        pytest.skip(f"written for {source.archs}")
    kernels = evaluator.kernels(Submission(n=1, sha=digest(source.text, {}), origin="user"), source.text).values()
    main = max(kernels, key=lambda kernel: sum(kernel.mma.values()))
    assert all(opcode.startswith(OPCODE[evaluator.target.key]) for opcode in main.mma)
    assert main.shared <= evaluator.target.shared_per_block
    assert main.spill_stores == main.spill_loads == 0
    if source.rung != 1:  # the first rung has nothing in flight, and waits for its one MMA
        assert (main.waits_per_mma or 0.0) < 1.0
