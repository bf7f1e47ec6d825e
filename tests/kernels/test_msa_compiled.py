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
SHAPES = {
    "msa_attend": ("128k-m3_like", "128k-8x1-m3_like"),  # both group sizes
    "msa_index": ("chunk-128k",),
    "msa_prefill": ("whole-2k", "chunk-128k"),  # dense, and the index with attention
    "msa_decode": ("b1-1m",),
    "msa_decode_e4m3": ("b1-1m",),
}
HALF = {"h200": ("HGMMA", "HMMA"), "b200": ("UTCHMMA", "HMMA"), "rtx-pro-6000": ("HMMA",)}


@pytest.fixture(scope="module", params=[(name, target) for name in SHAPES for target in HALF], ids="-".join)
def evaluator(request: pytest.FixtureRequest) -> Iterator[Evaluator]:
    name, target = request.param
    task = content.read_task(ROOT / "tasks" / name)
    shapes = [shape for shape in task.timing if shape.name in SHAPES[name]]
    with Evaluator(task, target=target, shapes=shapes) as made:
        yield made


def test_the_default_compiles_to_16_bit_mma_without_spills(evaluator: Evaluator) -> None:
    for path in sorted((ROOT / "kernels" / evaluator.task.name).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        kernels = evaluator.kernels(Submission(n=1, sha=digest(source, {}), origin="user"), source).values()
        assert any(kernel.mma for kernel in kernels), path.stem
        for kernel in kernels:
            assert all(opcode.startswith(HALF[evaluator.target.key]) for opcode in kernel.mma), path.stem
            assert kernel.shared <= evaluator.target.shared_per_block, path.stem
            assert kernel.spill_stores == kernel.spill_loads == 0, path.stem
            assert (kernel.waits_per_mma or 0.0) < 1.0, path.stem
