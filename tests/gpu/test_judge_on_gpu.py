"""The judge on a GPU: what cannot be seen without one. Without a GPU of a known kind these are skipped.

pytest tests/gpu
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.errors import MachineError
from kopt.judge import Judge, Plan
from kopt.machine.choose import choose
from kopt.machine.detect import detect
from kopt.records import NO_DEVICE_TIME, Shape, Status

ROOT = Path(__file__).resolve().parents[2]
# By NVML: the judge refuses a GPU on which another process, this one for example, has a context.
HERE = any(gpu.product is not None for gpu in detect().visible())

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no GPU that kopt knows")]

VENDOR = (
    "import torch\n\ndef fp8_gemm(a, b, scale_a, scale_b, out):\n"
    "    torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=out.dtype, use_fast_accum=True, out=out)\n"
)
BLAS = (
    "import torch\n\ndef fp8_gemm(a, b, scale_a, scale_b, out):\n"
    "    out.copy_(torch.mm(a.float(), b.float().T) * (scale_a * scale_b))\n"
)
PLAN = Plan(quads=1, check=False, agreement=False, graph=False)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(content.load_task("fp8_gemm", ROOT), "cuda", device=choose().gpu or "") as judge:
        yield judge


def cube(size: int) -> list[Shape]:
    return [Shape(name="cube", dims={"M": size, "N": size, "K": size})]


def test_what_a_null_batch_does_is_no_part_of_what_it_takes(judge: Judge) -> None:
    """Its 10 ms of work by the trusted runner are as long as a batch, and are not taken off any."""
    judgement = judge.measure(VENDOR, shapes=cube(2048), plan=PLAN)
    assert judgement.status is Status.PASSED
    assert judgement.facts["shapes"]["cube"]["null_us"] < 5_000.0
    assert judgement.facts["batches"]["window"] > 0.060  # four batches of calls, and three nulls


def test_a_gpu_too_small_for_a_shape_is_no_fault_of_a_kernel(judge: Judge) -> None:
    with pytest.raises(
        MachineError, match=r"memory is too small to judge its shapes, the largest of which is .*--shapes"
    ):
        judge.measure(VENDOR, shapes=cube(1 << 18), plan=PLAN)  # 275 GB
    assert judge.measure(VENDOR, shapes=cube(2048), plan=PLAN).status is Status.PASSED


def test_a_library_that_keeps_a_workspace_is_captured_again_and_again(judge: Judge) -> None:
    """torch takes a pool again that memory is left in only while a graph of it is."""
    plan = PLAN.model_copy(update={"graph": True})
    judgement = judge.measure(BLAS, shapes=cube(512), plan=plan)
    assert judgement.status is Status.PASSED
    measured = judgement.measurements[0]
    assert not any(warning.startswith(NO_DEVICE_TIME) for warning in measured.warnings)
    assert measured.device_us is not None
    assert measured.device_us.low < measured.device_us.high  # of three
