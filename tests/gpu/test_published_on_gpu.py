"""What a user of the published kernels runs, on a GPU: `kopt.load` at every size a kernel is checked at, compiled, in a
CUDA graph; and the module of a whole layer. Without a GPU of a known kind these are skipped.

    pytest tests/gpu
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kopt
from kopt import content
from kopt.evaluate import hooks
from kopt.machine.products import match
from kopt.msa import index, reference
from kopt.msa.layer import MsaAttention
from kopt.publish.record import find
from kopt.records.task import Shape, Task

ROOT = Path(__file__).resolve().parents[2]
HERE = match(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(HERE is None, reason="no GPU that kopt knows")]

TASKS = [name for name in content.list_tasks(ROOT) if HERE is not None and HERE.key in find(name, ROOT)]
CASES = [(name, shape.name) for name in TASKS for shape in content.load_task(name, ROOT).check_gpu]


def made(task: Task, shape: Shape) -> dict[str, Any]:
    family = (shape.inputs or task.input_families)[0]
    inputs: dict[str, Any] = hooks.load(task).make_inputs(dict(shape.dims), family, 11, "cuda")
    return inputs


def called(task: Task, inputs: dict[str, Any], op: Any) -> dict[str, torch.Tensor]:
    got = op(*(inputs[t.name] for t in task.inputs))
    return dict(zip((t.name for t in task.outputs), got if isinstance(got, tuple) else (got,), strict=True))


def wrong(task: Task, shape: Shape, inputs: dict[str, Any], got: dict[str, torch.Tensor]) -> str:
    """By the task's own check, or by its bound, on random rows where the whole would take long."""
    of, dims = hooks.load(task), dict(shape.dims)
    family = (shape.inputs or task.input_families)[0]
    if check := getattr(of, "check", None):
        return "; ".join(str(fault) for fault in check(inputs, got, {}, dims, family))
    if not hasattr(of, "slices"):
        expected = of.reference(inputs, dims)
        limit = of.bound(inputs, expected, dims)
        compared = {name: (values, expected[name], limit[name]) for name, values in got.items()}
    else:
        dim = of.SEPARABLE[0]
        rows = torch.randperm(dims[dim], generator=torch.Generator().manual_seed(5))[:200].sort().values.cuda()
        expected, limit = of.slices(inputs, dims, dim, rows)
        compared = {name: (values[rows], expected[name], limit[name]) for name, values in got.items()}
    faults = []
    for name, (values, want, bound) in compared.items():
        off = ((values.double() - want).abs() > bound) & ~(values.isnan() & want.isnan())
        if bool(off.any()):
            faults.append(f"{name}: {int(off.sum())} of {off.numel()} elements")
    return "; ".join(faults)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_published_kernel_is_right_at_every_size_it_is_checked_at(name: str, size: str) -> None:
    task = content.load_task(name, ROOT)
    shape = next(s for s in task.check_gpu if s.name == size)
    inputs = made(task, shape)
    assert wrong(task, shape, inputs, called(task, inputs, kopt.load(name, workspace=ROOT))) == ""


@pytest.mark.parametrize("name", TASKS)
def test_it_works_under_torch_compile_and_in_a_cuda_graph(name: str) -> None:
    task = content.load_task(name, ROOT)
    shape = task.check_gpu[0]
    op = kopt.load(name, workspace=ROOT)
    inputs = made(task, shape)
    compiled = torch.compile(lambda *tensors: op(*tensors), fullgraph=True)
    assert wrong(task, shape, inputs, called(task, inputs, compiled)) == ""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = called(task, inputs, op)
    for output in got.values():
        output.view(torch.uint8).fill_(0x5A)
    graph.replay()
    torch.cuda.synchronize()
    assert wrong(task, shape, inputs, got) == ""


needs_prefill = pytest.mark.skipif("msa_prefill" not in TASKS, reason="no msa_prefill is published for this GPU")


@pytest.fixture
def layer() -> MsaAttention:
    torch.manual_seed(0)
    return MsaAttention(1024, 64, 4).cuda().bfloat16()


@needs_prefill
@torch.no_grad()
def test_a_layer_agrees_with_the_reference_where_every_block_is_chosen(layer: MsaAttention) -> None:
    x = torch.randn(2048 + 900, 1024, device="cuda", dtype=torch.bfloat16)
    cu = torch.tensor([0, 2048, 2048, 2948], dtype=torch.int32, device="cuda")
    assert "msa_prefill" in layer.runs_on(x)
    mine = layer.project(x, reference.places(cu, cu, x.shape[0]).position)
    got = layer.attend(*mine, cu, cu)
    host = [tensor.cpu().double() for tensor in mine]
    ids = reference.every_block(cu.cpu(), cu.cpu(), 4)
    want = reference.attend_rows(*host[:3], ids, cu.cpu(), cu.cpu(), errors=False).out
    torch.testing.assert_close(got.cpu().double(), want, rtol=1e-2, atol=8e-3)
    torch.testing.assert_close(layer(x, cu), layer.output(got))


@needs_prefill
@torch.no_grad()
def test_a_layer_agrees_with_the_reference_at_the_end_of_a_long_context(layer: MsaAttention) -> None:
    x = torch.randn(20_000, 1024, device="cuda", dtype=torch.bfloat16)
    cu = torch.tensor([0, 20_000], dtype=torch.int32, device="cuda")
    mine = layer.project(x, torch.arange(20_000, device="cuda"))
    last = slice(20_000 - 64, 20_000)
    few = torch.tensor([0, 64], dtype=torch.int32, device="cuda")
    got = layer.attend(mine.q[last], mine.k, mine.v, mine.iq[last], mine.ik, few, cu)
    host = [tensor.cpu().double() for tensor in mine]
    ids = index.choose(host[3][last], host[4], few.cpu(), cu.cpu())
    want = reference.attend_rows(host[0][last], *host[1:3], ids, few.cpu(), cu.cpu(), errors=False).out
    # Of values whose root mean square is 0.026: a list that lacks a block is further off.
    close = ((got.cpu().double() - want).abs() <= 4e-3 + 1e-2 * want.abs()).all(-1)
    # Two blocks whose scores differ by a rounding may change places: that changes all heads of a group of one query.
    assert float(close.double().mean()) > 0.97
