"""Recipes: what trace records of a call, launched again by a process without the candidate; packing; refusals."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from kopt.evaluate.evaluator import Evaluator
from kopt.evaluate.recipe import Argument, Box, Recipe, Step
from kopt.judge import Judge, Judgement
from kopt.judge.replay import Material, Unreplayable
from kopt.judge.replay.packing import extents, parameters, scalar, tensor_type
from kopt.records import NO_DEVICE_TIME, Shape, Status, Task

from .conftest import QUICK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

TINY = Shape(name="tiny", dims={"M": 8, "N": 6, "K": 4})
TWO_LAUNCHES = """
import torch
import triton
import triton.language as tl


@triton.jit
def product_kernel(a_ptr, b_ptr, part_ptr, M, N, K, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < M * N
    row, col = at // N, at % N
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(K):
        a = tl.load(a_ptr + row * K + k, mask=inside, other=0.0)
        b = tl.load(b_ptr + col * K + k, mask=inside, other=0.0)
        total += a * b
    tl.store(part_ptr + at, total, mask=inside)


@triton.jit
def scale_kernel(part_ptr, scale_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(part_ptr + at, mask=at < count) * tl.load(scale_ptr), mask=at < count)


def blend(a, scale, b, out):
    M, K = a.shape
    N = b.shape[0]
    part = torch.empty((M, N), dtype=torch.float32, device=a.device)
    grid = (triton.cdiv(M * N, 16),)
    product_kernel[grid](a, b, part, M, N, K, BLOCK=16)
    scale_kernel[grid](part, scale, out, M * N, BLOCK=16)
"""
DECOY = TWO_LAUNCHES + "    scale_kernel[grid](out, scale, part, M * N, BLOCK=16)\n"
READS_THE_SCALE = TWO_LAUNCHES.replace("    part = torch", "    assert scale.item() is not None\n    part = torch")
WITH_ATEN = TWO_LAUNCHES.replace("part, scale, out,", "part, scale * 1.0, out,")


@pytest.fixture(scope="module")
def traced(blend: Task) -> Iterator[Callable[[str], Material]]:
    """What the trace stage records of a source at one shape."""
    with Evaluator(blend, shapes=[TINY]) as evaluator:

        @cache
        def trace(source: str) -> Material:
            found = evaluator.material(source)
            assert found is not None
            return found

        yield trace


@pytest.fixture
def judged(judge: Judge, blend: Task, traced: Callable[[str], Material]) -> Callable[[str], Judgement]:
    plan = QUICK.model_copy(update={"check": False, "accuracy": False, "call_seconds": 20.0, "most_calls": 4})

    def judged(source: str) -> Judgement:
        return judge.measure(source, shapes=[TINY], plan=plan, material=traced(source))

    return judged


def test_a_recipe_names_tensors_and_workspaces_instead_of_addresses(traced: Callable[[str], Material]) -> None:
    recipe = traced(TWO_LAUNCHES).recipes["tiny"]
    product_step, scale_step = recipe.steps
    assert (recipe.reason, recipe.workspaces) == ("", (8 * 6 * 4,))
    assert [a.buffer for a in product_step.arguments if a.kind == "pointer"] == [0, 2, 4]  # a, b, the workspace
    assert [a.buffer for a in scale_step.arguments if a.kind == "pointer"] == [4, 1, 3]
    assert [a.value for a in product_step.arguments if a.kind != "pointer"] == [8, 6, 4, 16]
    assert product_step.grid == (3, 1, 1)
    assert set(traced(TWO_LAUNCHES).images) == set(recipe.cubins)


def test_launches_alone_give_the_result_and_each_has_a_part_in_it(judged: Callable[[str], Judgement]) -> None:
    judgement = judged(TWO_LAUNCHES)
    assert judgement.status is Status.PASSED, judgement.findings
    found = judgement.facts["replay"]["tiny"]
    assert found["steps"] == ["product_kernel", "scale_kernel"]
    assert found["us"] > 0
    assert found["idle"] == []
    # The interpreter's time says nothing of a device.
    assert judgement.measurements[0].device_us is None


def test_a_launch_without_a_part_in_the_result_is_named(judged: Callable[[str], Judgement]) -> None:
    judgement = judged(DECOY)
    assert judgement.status is Status.PASSED
    (finding,) = judgement.findings
    assert finding.rule == "judge.ghost"
    assert "launch 2 of scale_kernel could be left out: it does not change the output at tiny" in finding.message
    assert judgement.facts["replay"]["tiny"]["idle"] == ["scale_kernel (launch 3 of 3)"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (READS_THE_SCALE, "host logic depends on data"),
        (WITH_ATEN, "the host calls aten::mul"),
    ],
)
def test_what_a_recipe_cannot_say_is_not_replayable(source: str, why: str, judged: Callable[[str], Judgement]) -> None:
    judgement = judged(source)
    assert judgement.status is Status.PASSED, judgement.findings
    assert why in judgement.facts["replay"]["tiny"]["reason"]
    assert any(w.startswith(f"{NO_DEVICE_TIME}: not replayable") for w in judgement.measurements[0].warnings)


def test_a_recipe_that_was_tampered_with_is_no_replay_and_no_verdict(
    judge: Judge, blend: Task, traced: Callable[[str], Material]
) -> None:
    told = traced(TWO_LAUNCHES)
    recipe = told.recipes["tiny"]
    short = recipe.model_copy(update={"steps": recipe.steps[1:]})
    forged = told.model_copy(update={"recipes": {"tiny": short}})
    plan = QUICK.model_copy(update={"check": False, "accuracy": False, "call_seconds": 20.0, "most_calls": 4})
    judgement = judge.measure(TWO_LAUNCHES, shapes=[TINY], plan=plan, material=forged)
    assert judgement.status is Status.PASSED
    assert "the launches alone do not give the result" in judgement.facts["replay"]["tiny"]["reason"]


def test_multiplying_for_show_is_rejected(
    judge: Judge, blend: Task, traced: Callable[[str], Material], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the third launch, whose result nobody reads, were the only one with matrix instructions."""
    told = traced(DECOY)
    recipe = told.recipes["tiny"]
    steps = [step.model_copy(update={"matrix": number == 2}) for number, step in enumerate(recipe.steps)]
    shown = told.model_copy(update={"recipes": {"tiny": recipe.model_copy(update={"steps": tuple(steps)})}})
    wants = blend.provenance.model_copy(update={"mma": "bf16"})
    monkeypatch.setattr(judge, "task", blend.model_copy(update={"provenance": wants}))
    plan = QUICK.model_copy(update={"check": False, "accuracy": False, "call_seconds": 20.0, "most_calls": 4})
    judgement = judge.measure(DECOY, shapes=[TINY], plan=plan, material=shown)
    assert judgement.status is Status.REJECTED
    assert "have no part in the result" in str(judgement.findings[-1])


def test_parameters_are_packed_as_tritons_launcher_packs_them() -> None:
    box = Box(block=(64, 128), swizzle=3, elem_size=2, elem_type=10)
    descriptor = Argument(
        kind="descriptor", type="tensordesc<bf16[64, 128]>", buffer=0, shape=(300, 256), strides=(256, 1),
        block=(64, 128), box=box,
    )  # fmt: skip
    step = Step(
        name="k",
        arguments=(
            descriptor,
            Argument(kind="pointer", type="*fp32", buffer=1, offset=16),
            Argument(kind="constexpr", type="constexpr", value=7),
            Argument(kind="scalar", type="i32", value=-2),
            Argument(kind="pointer", type="*i8"),
        ),
    )

    def address(argument: Argument) -> int:
        return 0 if argument.buffer is None else 4096 * (argument.buffer + 1) + argument.offset

    packed = parameters(step, address, lambda a, at: at.to_bytes(128, "little"), scratch=99)
    assert [p.size for p in packed] == [128, 4, 4, 8, 8, 8, 4, 8, 8, 8]
    numbers = [int.from_bytes(p.data[: p.size], "little", signed=True) for p in packed]
    assert numbers == [4096, 300, 256, 256, 1, 8192 + 16, -2, 0, 99, 0]
    assert extents(descriptor) == ([256, 300], [512], [128, 64])
    assert tensor_type(descriptor) == 9  # what the device calls 10 is bfloat16, 9 on the host


@pytest.mark.parametrize(
    ("type", "value", "want"),
    [
        ("i1", True, b"\1"),
        ("u64", 2**64 - 1, b"\xff" * 8),
        ("i64", -1, b"\xff" * 8),
        ("fp16", 1.5, struct.pack("<e", 1.5)),
        ("bf16", 1.0 + 2**-8 + 2**-9, b"\x80\x3f"),
        ("fp32", "inf", struct.pack("<f", float("inf"))),
        ("fp64", 0.1, struct.pack("<d", 0.1)),
    ],
)
def test_numbers_have_the_kernels_own_sizes(type: str, value: object, want: bytes) -> None:
    packed = scalar(type, value)
    assert packed.data[: packed.size] == want


def test_a_type_that_no_launcher_knows_is_not_guessed() -> None:
    with pytest.raises(Unreplayable, match="nvTmaDesc"):
        scalar("nvTmaDesc", 1)


def test_a_recipe_survives_its_journey_as_json() -> None:
    step = Step(name="k", cubin="ab", arguments=(Argument(kind="scalar", type="fp32", value=0.5),))
    recipe = Recipe(shape="s", steps=(step,), workspaces=(5,))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
