"""Hooks of the MSA attention task: what its inputs promise, and that its parts agree with each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.evaluate import hooks
from kopt.msa import arithmetic, reference, selection
from kopt.records import Shape, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

DIMS = {"T": 19, "S": 400, "HQ": 8, "HKV": 1, "OFFSETS": 5}


@pytest.fixture(scope="module")
def task() -> Task:
    return content.load_task("msa_attend", Path.cwd())


@pytest.mark.parametrize("family", ["random", "m3_like", "hot_block", "short", "outlier", "pick", "odd"])
def test_integers_alone_are_those_of_the_whole_and_a_seed_gives_them_again(family: str, task: Task) -> None:
    module = hooks.load(task)
    whole, again, other = (module.make_inputs(DIMS, family, seed, "cpu") for seed in (1, 1, 2))
    alone = module.make_integers(DIMS, family, 1, "cpu")
    assert set(alone) == {"ids", "cu_q", "cu_k"}
    for name, tensor in whole.items():
        assert torch.equal(tensor.view(torch.uint8), again[name].view(torch.uint8))
        assert name not in alone or torch.equal(tensor, alone[name])
    assert not torch.equal(whole["ids"], other["ids"])
    for name, size in (("cu_q", 19), ("cu_k", 400)):
        assert whole[name][[0, -1]].tolist() == [0, size]
        assert (whole[name].diff() >= 0).all()


@pytest.mark.parametrize("family", ["random", "pick", "odd"])
def test_slices_are_rows_of_the_reference_and_its_bound(family: str, task: Task) -> None:
    module = hooks.load(task)
    inputs = module.make_inputs(DIMS, family, 3, "cpu")
    want = module.reference(inputs, DIMS)
    bound = module.bound(inputs, want, DIMS)
    index = torch.tensor([17, 0, 8])
    some, some_bound = module.slices(inputs, DIMS, "T", index)
    for got, all_ in ((some, want), (some_bound, bound)):
        torch.testing.assert_close(got["out"], all_["out"][index], equal_nan=True, rtol=1e-9, atol=1e-12)
    slow, _ = reference.attend(**inputs)
    torch.testing.assert_close(want["out"], slow, equal_nan=True, rtol=1e-9, atol=1e-12)


def test_pick_gives_rows_of_v_and_hides_what_would_change_them(task: Task) -> None:
    module = hooks.load(task)
    dims = {"T": 19, "S": 400, "HQ": 16, "HKV": 2, "OFFSETS": 3}
    inputs = module.make_inputs(dims, "pick", 0, "cpu")
    out = module.reference(inputs, dims)["out"]
    for token in range(19):
        for head in range(16):
            row = out[token, head]
            assert not row.any() or (inputs["v"][:, head // 8].double() == row).all(1).any()
    # With a list that names what was not listed, or a mask that lets the next token in, some rows change.
    further = {**inputs, "cu_k": inputs["cu_k"] + torch.tensor([0, 1, 0])}
    assert not torch.equal(module.reference(further, dims)["out"], out)


def test_odd_inputs_hold_what_the_readme_tells_of(task: Task) -> None:
    module = hooks.load(task)
    dims = {"T": 60, "S": 3000, "HQ": 16, "HKV": 2, "OFFSETS": 7}
    inputs = module.make_inputs(dims, "odd", 0, "cpu")
    ids, lens_q, lens_k = inputs["ids"], inputs["cu_q"].diff(), inputs["cu_k"].diff()
    position = reference.places(inputs["cu_q"], inputs["cu_k"], 60).position
    assert (ids[..., :-1] < ids[..., 1:]).any()
    assert (ids < -1).any()
    assert (ids > position[None, :, None] // 128).any()
    out = module.reference(inputs, dims)["out"]
    assert out.isnan().any()
    assert (out == 0).all(2).any()
    assert out.isfinite().all(2).any()
    assert (lens_q != lens_k).any()


def test_useful_work_of_a_chunk(task: Task) -> None:
    chunk = next(s for s in task.timing if s.name == "128k-random")
    cost = hooks.cost(task, chunk)
    pairs = arithmetic.selected_pairs(4096, 131072)
    assert cost.flops == 4 * 64 * 128 * pairs
    assert 0.26e12 < cost.flops < 0.27e12
    assert cost.written == 2 * 4096 * 64 * 128
    # Every block is listed by somebody: keys and values are read whole.
    assert cost.read == pytest.approx(cost.written + 2 * 2 * 131072 * 4 * 128 + 4 * 4 * 4096 * 16, rel=1e-3)


def test_the_regime_decides_what_has_to_be_read(task: Task) -> None:
    read = {s.name: hooks.cost(task, s).read for s in task.timing}
    assert read["128k-hot_block"] < read["128k-m3_like"] < read["128k-random"]
    assert {task.timed_family(s) for s in task.timing} == set(selection.FULL)


@pytest.mark.parametrize(
    ("dims", "named"),
    [
        ({"HQ": 24}, "HKV = 1, HQ = 24, but the task demands HQ == 16"),
        ({"S": 18}, "S = 18, T = 19, but the task demands S >= T"),
        ({"OFFSETS": 1}, "OFFSETS = 1"),
        ({"HQ": 12}, "HQ = 12 is not a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused_by_name(dims: dict[str, int], named: str, task: Task) -> None:
    with pytest.raises(ValueError, match=named):
        task.validate_shape(Shape(name="mine", dims={**DIMS, **dims}))
