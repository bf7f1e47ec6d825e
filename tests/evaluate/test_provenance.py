"""The rules over facts: what was multiplied, by whom, and what the probes saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.evaluate.provenance import LIBRARY, findings, probe_findings
from kopt.records import KernelFacts, LaunchFacts, Provenance, Shape, Status, Task

ROOT = Path(__file__).parents[2]
FP8 = {"QGMMA.64x256x32.F32.E4M3.E4M3": 4}


@pytest.fixture(scope="module")
def task() -> Task:
    """FP8 is asked for from M = 128; "big" falls under that, "small" does not."""
    task = content.load_task("fp8_gemm", ROOT)
    shapes = tuple(Shape(name=n, dims={"M": m, "N": 4096, "K": 4096}) for n, m in (("big", 128), ("small", 16)))
    return task.model_copy(update={"timing": shapes})


def kernel(mma: dict[str, int], name: str = "k") -> KernelFacts:
    return KernelFacts(
        id=name, name=name, arch=90, warps=4, stages=3, registers=64, spill_stores=0, spill_loads=0, shared=0,
        shared_limit=232448, occupancy=8, mma=mma,
    )  # fmt: skip


def judged(
    task: Task, kernels: list[KernelFacts], aten: dict[str, int] | None = None, grid: tuple[int, int, int] = (132, 1, 1)
) -> list[tuple[str, str, Status | None]]:
    calls = {s.name: [LaunchFacts(kernel=k.id, name=k.name, grid=grid) for k in kernels] for s in task.timing}
    found = findings(task, calls, calls, {k.id: k for k in kernels}, {s.name: aten or {} for s in task.timing})
    return [(f.rule, f.shape, f.status) for f in found]


@pytest.mark.parametrize(
    "opcode", ["QGMMA.64x128x32.F32.E4M3.E4M3", "UTCQMMA", "UTCQMMA.2CTA", "QMMA.16832.F32.E4M3.E4M3"]
)
def test_fp8_matrix_instructions_of_every_architecture_are_accepted(task: Task, opcode: str) -> None:
    assert judged(task, [kernel({opcode: 8})]) == []


@pytest.mark.parametrize(
    "opcode", ["HMMA.16816.F32.BF16", "HGMMA.64x128x16.F32.BF16", "HGMMA.64x128x16.F32", "UTCHMMA"]
)
def test_an_upcast_is_rejected_where_the_rule_applies_and_warned_of_elsewhere(task: Task, opcode: str) -> None:
    found = judged(task, [kernel({opcode: 8})])
    assert ("provenance.precision", "big", Status.REJECTED) in found
    assert ("provenance.mma", "big", Status.REJECTED) in found
    assert ("provenance.precision", "small", None) in found
    assert all(status is None for _, shape, status in found if shape == "small")


def test_the_compilers_own_unpacking_is_told_from_an_upcast(task: Task) -> None:
    found = judged(task, [kernel({"HMMA.16816.F32": 8})])
    assert ("provenance.unpacked", "small", None) in found
    assert ("provenance.mma", "big", Status.REJECTED) in found


def test_a_decoy_does_not_cover_for_the_kernel_that_works(task: Task) -> None:
    found = judged(task, [kernel(FP8, "decoy"), kernel({"HGMMA.64x128x16.F32.BF16": 4}, "real")])
    assert ("provenance.precision", "big", Status.REJECTED) in found


def test_kernels_that_multiply_nothing_may_stand_beside(task: Task) -> None:
    assert judged(task, [kernel(FP8), kernel({}, "reduce")]) == []


def test_no_launch_and_an_empty_grid_are_no_work(task: Task) -> None:
    expected = [("provenance.launch", s, Status.REJECTED) for s in ("big", "small")]
    assert judged(task, []) == expected
    assert judged(task, [kernel(FP8)], grid=(0, 1, 1)) == expected


def test_work_that_only_the_first_call_does_is_no_work(task: Task) -> None:
    first = {s.name: [LaunchFacts(kernel="k", name="k", grid=(132, 1, 1))] for s in task.timing}
    found = findings(task, first, {}, {"k": kernel(FP8)}, {})
    assert [(f.rule, f.status) for f in found] == [("provenance.launch", Status.REJECTED)] * 2


@pytest.mark.parametrize("operation", ["mm", "addmm", "_scaled_mm", "_scaled_mm_v2", "scaled_dot_product_attention"])
def test_library_products_are_rejected_unless_the_task_allows_them(task: Task, operation: str) -> None:
    found = judged(task, [kernel(FP8)], {operation: 1 << 24})
    assert found == [("provenance.library", s, Status.REJECTED) for s in ("big", "small")]
    free = task.model_copy(update={"provenance": Provenance(mma="fp8", mma_from={"M": 128}, library=True)})
    assert judged(free, [kernel(FP8)], {operation: 1 << 24}) == []


@pytest.mark.parametrize("operation", ["empty", "view", "_unsafe_view", "t", "slice", "empty_strided"])
def test_looking_at_tensors_is_free(task: Task, operation: str) -> None:
    assert judged(task, [kernel(FP8)], {operation: 1 << 24}) == []


def test_moving_whole_tensors_beside_the_kernels_is_warned_of(task: Task) -> None:
    assert judged(task, [kernel(FP8)], {"zero_": 1 << 24}) == [("provenance.aten", s, None) for s in ("big", "small")]
    assert judged(task, [kernel(FP8)], {"zero_": 1024}) == []


def test_less_precision_than_the_task_asks_for_is_rejected(task: Task) -> None:
    bf16 = task.model_copy(update={"provenance": Provenance(mma="bf16", mma_from={"M": 128})})
    assert ("provenance.precision", "big", Status.REJECTED) in judged(bf16, [kernel(FP8)])
    assert judged(bf16, [kernel({"HGMMA.64x128x16.F32.BF16": 4})]) == []


def probed(**changes: list[str]) -> list[str]:
    names = ("fresh", "same", "rewritten", "benchmark", "test_correctness")
    return [f.rule for f in probe_findings({name: ["kernel k"] for name in names} | changes)]


def test_the_same_work_every_time_is_innocent() -> None:
    assert probed() == []


def test_work_that_a_known_input_does_not_cause_is_memoised() -> None:
    assert probed(same=[]) == ["probe.memoised"]
    assert probed(fresh=[], same=[], rewritten=[]) == ["probe.memoised"]
    assert probed(rewritten=[]) == ["probe.memoised"]
    assert probed(fresh=["kernel k", "kernel transpose"]) == ["probe.memoised"]


def test_room_made_once_for_a_new_address_is_not_memoised_work() -> None:
    assert probed(fresh=["kernel k", "aten empty", "aten new_empty"]) == []


def test_work_that_depends_on_who_calls_is_sniffing() -> None:
    assert probed(benchmark=["kernel k", "kernel fast"]) == ["probe.sniffing"]


@pytest.mark.parametrize("name", [
    "addmm_", "addbmm_", "baddbmm_", "addmv_", "_addmm_activation", "_trilinear", "_cdist_forward", "vdot",
    "sparse_sampled_addmm", "hspmm", "_sparse_semi_structured_linear", "_cudnn_rnn", "_triton_scaled_dot_attention",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_slow_conv2d_forward", "conv_depthwise3d",
])  # fmt: skip
def test_products_by_other_names_are_the_librarys_too(name: str) -> None:
    assert hasattr(torch.ops.aten, name)
    assert LIBRARY.match(name)


@pytest.mark.parametrize(
    "name", ["mul", "add_", "copy_", "zero_", "_to_copy", "sum", "empty", "view", "linalg_vector_norm"]
)
def test_what_multiplies_no_matrices_is_nobodys_library(name: str) -> None:
    assert not LIBRARY.match(name)
