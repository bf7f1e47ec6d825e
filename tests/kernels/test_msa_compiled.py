"""Every MSA family's default compiles for every architecture, fits and spills nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.evaluator import Evaluator
from kopt.records import Submission, digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux"),
]

ROOT = Path(__file__).parents[2]
FAMILIES = sorted((ROOT / "kernels").glob("msa_attend/*.py"))
HALF = {"h200": ("HGMMA", "HMMA"), "b200": ("UTCHMMA", "HMMA"), "rtx-pro-6000": ("HMMA",)}


@pytest.fixture(scope="module", params=HALF)
def evaluator(request: pytest.FixtureRequest) -> Iterator[Evaluator]:
    task = content.read_task(ROOT / "tasks" / "msa_attend")
    # Both group sizes.
    shapes = [shape for shape in task.timing if shape.name in ("128k-m3_like", "128k-8x1-m3_like")]
    with Evaluator(task, target=request.param, shapes=shapes) as made:
        yield made


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_the_default_compiles_to_bf16_mma_without_spills(path: Path, evaluator: Evaluator) -> None:
    source = path.read_text(encoding="utf-8")
    kernels = evaluator.kernels(Submission(n=1, sha=digest(source, {}), origin="user"), source).values()
    assert any(kernel.mma for kernel in kernels)
    for kernel in kernels:
        assert all(opcode.startswith(HALF[evaluator.target.key]) for opcode in kernel.mma)
        assert kernel.shared <= evaluator.target.shared_per_block
        assert kernel.spill_stores == kernel.spill_loads == 0
        assert (kernel.waits_per_mma or 0.0) < 1.0
