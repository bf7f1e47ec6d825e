"""Integer inputs reach the stages as they are: what a kernel is steered by is real in trace and in predict."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.errors import UsageError
from kopt.evaluate import hooks
from kopt.evaluate.steering import Steering
from kopt.evaluate.worker.trace import make_tensors
from kopt.records import Shape, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

ROOT = Path(__file__).parents[2]
SHAPE = Shape(name="chunk", dims={"T": 9, "S": 3000, "HQ": 8, "HKV": 1, "OFFSETS": 3}, inputs=("short", "pick"))


@pytest.fixture
def task() -> Task:
    return content.read_task(ROOT / "tasks" / "msa_attend")


def test_trace_has_the_integers_of_the_family_that_a_shape_is_timed_with(task: Task, tmp_path: Path) -> None:
    from kopt.evaluate.workers import Workers

    with Workers() as workers:
        steering = Steering(workers, tmp_path)
        files = steering.put(tmp_path, task, SHAPE, seed=7)
        assert set(files) == {"ids", "cu_q", "cu_k"}
        want = hooks.load(task).make_integers(dict(SHAPE.dims), "short", 7, "cpu")
        specs = [{"sizes": t.sizes(SHAPE.dims), "dtype": t.dtype, "file": files.get(t.name)} for t in task.inputs]
        for spec, tensor in zip(task.inputs, make_tensors(specs, tmp_path), strict=True):
            assert tensor.dtype == getattr(torch, spec.dtype)
            assert spec.name not in want or torch.equal(tensor, want[spec.name])
        odd = task.model_copy(update={"folder": str(tmp_path), "sha": "0" * 64})
        with pytest.raises(UsageError, match=r"task msa_attend, shape chunk .*: its integer inputs cannot be made"):
            steering.put(tmp_path, odd, SHAPE, seed=7)


def test_a_task_without_integers_asks_for_no_process(tmp_path: Path) -> None:
    steering = Steering(None, tmp_path)  # type: ignore[arg-type]
    task = content.read_task(ROOT / "tasks" / "fp8_gemm")
    assert steering.put(tmp_path, task, task.timing[0], seed=0) == {}
