"""The check of the FP8 GEMM task accepts every honest kernel and kills every mutant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fp8_gemm_mutants import HONEST, MUTANTS, edited

from kopt import content
from kopt.errors import UsageError
from kopt.evaluate import hooks
from kopt.evaluate.answers import Problem, problems
from kopt.evaluate.compare import Limits, compare
from kopt.evaluate.numerics import Checked, Numerics
from kopt.machine.products import product
from kopt.records import Shape, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")


@pytest.fixture(scope="module")
def task() -> Task:
    return content.load_task("fp8_gemm", Path.cwd())


@pytest.fixture(scope="module")
def checks(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Checked]]]:
    """Every source in flight at once, since one interpreter keeps only one core busy."""
    from kopt.evaluate.workers import Workers

    # What kills a mutant here kills it in the whole check, of which this is a part.
    part = [p for p in problems(task) if p.shape.name in ("smallest", "ragged") and p.family != "scales"]
    with Workers() as workers, ThreadPoolExecutor(workers.cores) as pool:
        numerics = Numerics(workers, tmp_path_factory.mktemp("store"), deadline=200)
        h200 = product("h200")
        whole = {name: pool.submit(numerics.check, task, edited(edit), {}, 0, h200) for name, edit in HONEST.items()}
        partly = {
            name: pool.submit(numerics.check, task, edited(edit), {}, 0, h200, part) for name, edit in MUTANTS.items()
        }
        yield whole | partly


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_kernel_passes(name: str, task: Task, checks: dict[str, Future[Checked]]) -> None:
    checked = checks[name].result()
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert len(checked.graded) == len(problems(task))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, checks: dict[str, Future[Checked]]) -> None:
    checked = checks[name].result()
    assert any(checked.findings.values())


def test_every_check_is_small_enough_for_the_interpreter(task: Task) -> None:
    for shape in task.check_cpu:
        assert shape.dims["M"] * shape.dims["N"] * shape.dims["K"] <= 1e7


@pytest.mark.parametrize("family", ["normal", "integers", "one_hot", "scales", "adversarial"])
def test_inputs_are_finite_reproducible_and_differ_by_seed(family: str, task: Task) -> None:
    import torch

    module, dims = hooks.load(task), {"M": 7, "N": 32, "K": 48}
    one, same, other = (module.make_inputs(dims, family, seed, "cpu") for seed in (1, 1, 2))
    for name, tensor in one.items():
        assert torch.isfinite(tensor.float()).all()
        assert torch.equal(tensor.view(torch.uint8), same[name].view(torch.uint8))
    assert not torch.equal(one["b"].view(torch.uint8), other["b"].view(torch.uint8))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("family", ["normal", "integers", "one_hot", "scales", "adversarial"])
def test_a_scale_that_is_dropped_or_applied_twice_shows(family: str, seed: int, task: Task) -> None:
    inputs = hooks.load(task).make_inputs({"M": 4, "N": 16, "K": 16}, family, seed, "cpu")
    a, b = inputs["scale_a"].item(), inputs["scale_b"].item()
    for wrong in (a, b, 1.0, a * a, b * b, a / b, a * a * b, a * b * b):
        assert abs(wrong / (a * b) - 1) > 0.4


def test_scales_of_the_scales_family_span_their_decades(task: Task) -> None:
    module = hooks.load(task)
    drawn = [module.make_inputs({"M": 1, "N": 16, "K": 16}, "scales", seed, "cpu") for seed in range(200)]
    values = [inputs[name].item() for inputs in drawn for name in ("scale_a", "scale_b")]
    assert 0.9e-4 < min(values) < 2e-4
    assert 0.5e4 < max(values) < 1.1e4


def test_one_hot_inputs_hold_every_finite_value_and_reach_the_last_k(task: Task) -> None:
    import torch

    inputs = hooks.load(task).make_inputs({"M": 64, "N": 64, "K": 272}, "one_hot", 0, "cpu")
    assert inputs["b"].view(torch.uint8).unique().numel() == 254
    picked = inputs["a"].float().abs().argmax(1)
    assert picked[0] == 271
    assert (inputs["a"].float() != 0).sum(1).tolist() == [1] * 64


def fast_accumulation(a: Any, b: Any, bits: int) -> Any:
    """a @ b.T as Hopper's FP8 tensor cores add: per 32 k's, all aligned to the largest and cut off below `bits`."""
    total = np.zeros((a.shape[0], b.shape[0]))
    for k in range(0, a.shape[1], 32):
        terms = a[:, None, k : k + 32] * b[None, :, k : k + 32]
        terms = np.concatenate([terms, total[:, :, None]], 2)
        largest = np.maximum(np.abs(terms).max(2), 1e-300)
        unit = 2.0 ** (np.floor(np.log2(largest)) - (bits - 1))
        total = np.trunc(terms / unit[:, :, None]).sum(2) * unit
    return total


@pytest.mark.parametrize("k", [16, 272, 4096, 16384])
@pytest.mark.parametrize("family", ["normal", "integers", "one_hot", "scales", "adversarial"])
def test_sums_of_fourteen_bits_pass_the_gpu_bound_and_the_exact_families(family: str, k: int, task: Task) -> None:
    found = of_bits(task, family, k, bits=14)
    assert found.finding is None, str(found.finding)


@pytest.mark.parametrize("family", ["normal", "integers"])
def test_sums_of_eight_bits_do_not(family: str, task: Task) -> None:
    assert of_bits(task, family, 4096, bits=8).finding is not None


def of_bits(task: Task, family: str, k: int, bits: int) -> Any:
    """How a GEMM that keeps `bits` of its sums compares, by the bound that holds on a GPU."""
    import torch

    module, dims = hooks.load(task), {"M": 12, "N": 32, "K": k}
    inputs = module.make_inputs(dims, family, 3, "cpu")
    total = fast_accumulation(inputs["a"].double().numpy(), inputs["b"].double().numpy(), bits)
    got = (torch.from_numpy(total).float() * inputs["scale_a"] * inputs["scale_b"]).to(torch.bfloat16)
    want = module.reference(inputs, dims)
    bits_of_gpu = {**module.SUM_BITS, "cpu": module.SUM_BITS["cuda"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SUM_BITS", bits_of_gpu)
        bound = module.bound(inputs, want, dims)["out"]
    limits = Limits(task.tolerance.relative_rms, bound, family in task.tolerance.exact_inputs)
    return compare("out", got, want["out"], limits, shape="x", family=family)


def test_integer_sums_stay_within_what_fourteen_bits_hold(task: Task) -> None:
    module = hooks.load(task)
    for k in (16, 512, 4096, 32768):
        inputs = module.make_inputs({"M": 16, "N": 64, "K": k}, "integers", 0, "cpu")
        products = inputs["a"].double()[:, None, :] * inputs["b"].double()[None, :, :]
        assert products.cumsum(2).abs().max() < 2**12


@pytest.mark.parametrize(("dims", "named"), [
    ({"M": 128, "N": 100, "K": 128}, "N = 100 is not a multiple of 16"),
    ({"M": 128, "N": 128, "K": 40}, "K = 40 is not a multiple of 16"),
    ({"M": 0, "N": 128, "K": 128}, "M = 0"),
    ({"M": 128, "N": 128, "K": 65536}, "K = 65536"),
    ({"M": 128, "N": 128}, "lacks K"),
])  # fmt: skip
def test_a_shape_that_the_task_does_not_take_is_refused_by_name(dims: dict[str, int], named: str, task: Task) -> None:
    with pytest.raises(ValueError, match=named):
        task.validate_shape(Shape(name="mine", dims=dims))


def test_useful_work_of_the_largest_shape(task: Task) -> None:
    cost = hooks.cost(task, task.timing[-1])
    assert cost.flops == 2 * 16384 * 10240 * 8192
    assert cost.read == 16384 * 8192 + 10240 * 8192 + 8
    assert cost.written == 2 * 16384 * 10240


def test_the_baseline_keeps_the_contract_of_entries(task: Task) -> None:
    import torch

    module, dims = hooks.load(task), {"M": 16, "N": 32, "K": 64}
    inputs = module.make_inputs(dims, "normal", 0, "cpu")
    out = torch.empty(16, 32, dtype=torch.bfloat16)
    module.baseline(*inputs.values(), out)
    found = compare(
        "out",
        out,
        module.reference(inputs, dims)["out"],
        Limits(task.tolerance.relative_rms),
        shape="x",
        family="normal",
    )
    assert found.finding is None


def test_an_unknown_family_of_inputs_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="'nomal', which is not in input_families"):
        task.validate_shape(Shape(name="mine", dims={"M": 1, "N": 16, "K": 16}, inputs=("nomal",)))


def test_problems_of_a_shape_come_together(task: Task) -> None:
    names = [p.shape.name for p in problems(task)]
    assert names == sorted(names, key=names.index)
    assert all(isinstance(p, Problem) for p in problems(task))


def test_the_known_tasks_are_named_when_one_is_not_found() -> None:
    with pytest.raises(UsageError, match="did you mean fp8_gemm"):
        content.load_task("fp8_gem", Path.cwd())
