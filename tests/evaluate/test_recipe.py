"""From what a trace reports to a recipe: places instead of addresses, and a reason for whatever cannot be said so."""

from __future__ import annotations

from typing import Any

import pytest

from kopt.evaluate.compilation import Compiled
from kopt.evaluate.hearsay import Nonsense
from kopt.evaluate.recipe import MOST_STEPS, recipe
from kopt.evaluate.traced import checked

A, OUT, WORK = 1 << 40, 2 << 40, 3 << 40
KERNEL = Compiled("k", {"name": "kernel", "num_warps": 4, "shared": 0}, {"mma": {}}, cubin="c0de")
POINTER = {"type": "*fp32", "address": A + 64, "storage": A, "nbytes": 256, "dtype": "float32"}


def launch(*arguments: dict[str, Any], grid: tuple[int, int, int] = (1, 1, 1)) -> dict[str, Any]:
    return {
        "launch": "k", "name": "kernel", "grid": grid, "allocator": False, "descriptors": [],
        "arguments": list(arguments),
    }  # fmt: skip


def aten(name: str, **more: Any) -> dict[str, Any]:
    return {"aten": name, "elements": 64, "bytes": 256, **more}


def made(*events: dict[str, Any], notes: tuple[str, ...] = ()) -> Any:
    report = {
        "shapes": {"s": {"first": [], "steady": list(events), "host_us": 1.0, "tensors": [[A, 256], [OUT, 256]]}},
        "probes": None, "notes": [], "swallowed": [], "error": None,
    }  # fmt: skip
    return recipe("s", checked(report)["shapes"]["s"], {"k": KERNEL}, notes)


def test_views_keep_their_offset_and_what_shares_memory_goes_on_sharing_it() -> None:
    work = {"type": "*fp32", "address": WORK, "storage": WORK, "nbytes": 100, "dtype": "float32"}
    later = {**work, "address": WORK + 40, "nbytes": 500}  # freed, and allocated again at the same place
    found = made(launch(POINTER, work), launch(later), launch({**POINTER, "address": 0}))
    first, second, third = found.steps
    assert [(a.buffer, a.offset) for a in first.arguments] == [(0, 64), (2, 0)]
    assert [(a.buffer, a.offset) for a in second.arguments] == [(2, 40)]
    assert third.arguments[0].buffer is None
    assert found.workspaces == (500,)


def test_a_launch_without_programs_is_no_step_and_memory_set_to_one_value_is() -> None:
    fill = {"type": "fill", "address": OUT, "storage": OUT, "nbytes": 256, "dtype": "float32", "value": 0, "extent": 64}
    found = made(aten("empty"), aten("zero_", fill=fill), launch(POINTER, grid=(0, 1, 1)), launch(POINTER))
    assert [step.name for step in found.steps] == ["aten::zero_", "kernel"]
    assert found.steps[0].extent == 64
    assert found.cubins == ("c0de",)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([launch({"type": "i64", "value": A + 8})], "an address as a number"),
        ([launch({"type": "unknown", "unknown": "a pointer that is no tensor"})], "a pointer that is no tensor"),
        ([launch({**POINTER, "type": "tensordesc<fp32[8]>", "shape": [8], "strides": [1], "block": [8],
                  "nan": False, "tf32": False})], "did not lower to TMA"),
        ([launch(POINTER), aten("_local_scalar_dense")], "host logic depends on data"),
        ([launch(POINTER), aten("mul")], "aten::mul"),
        ([aten("empty")], "nothing is launched"),
        ([launch(POINTER)] * (MOST_STEPS + 1), f"{MOST_STEPS + 1} launches a call"),
        ([{**launch(POINTER), "launch": "other"}], "did not compile"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_says_why(events: list[dict[str, Any]], why: str) -> None:
    found = made(*events)
    assert why in found.reason
    assert found.steps == ()


def test_a_host_that_read_values_of_tensors_is_believed_to_depend_on_them() -> None:
    found = made(launch(POINTER), notes=("the host reads values of tensors, which are placeholders while tracing",))
    assert "host logic depends on data" in found.reason


@pytest.mark.parametrize(
    "argument",
    [
        {"type": "i32"},
        {"type": "i32", "value": [1]},
        {"type": "*fp32", "storage": A},
        {"type": "*fp32", **{key: POINTER[key] for key in ("address", "storage", "nbytes")}},
        {**POINTER, "type": "tensordesc<fp8>"},
        {"type": "tuple", "items": [{"type": "i32"}]},
        {"type": "constexpr"},
    ],
    ids=str,
)
def test_a_record_that_somebody_had_a_hand_in_is_refused_before_anything_is_made_of_it(argument: Any) -> None:
    with pytest.raises(Nonsense):
        made(launch(POINTER, argument))
