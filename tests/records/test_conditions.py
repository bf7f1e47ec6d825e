"""Conditions that tie a task's dimensions together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kopt import content
from kopt.errors import UsageError
from kopt.judge.sizing import hidden_shapes
from kopt.records import Hidden, Shape, Task, conditions


@pytest.mark.parametrize(
    ("condition", "dims", "met"),
    [
        ("S >= T", {"S": 3, "T": 3}, True),
        ("S >= T", {"S": 2, "T": 3}, False),
        ("HQ == 16 * HKV or HQ == 8 * HKV", {"HQ": 16, "HKV": 2}, True),
        ("HQ % HKV == 0 and not HQ // HKV > 16", {"HQ": 64, "HKV": 2}, False),
        ("1 < A + B - 1 < 4", {"A": 2, "B": 2}, True),
        ("A % B == 0", {"A": 2, "B": 0}, False),
    ],
)
def test_a_condition_is_met_or_not(condition: str, dims: dict[str, int], met: bool) -> None:
    assert conditions.names(condition) == set(dims)
    assert conditions.holds(condition, dims) is met


@pytest.mark.parametrize("text", ["S >=", "S.bit_length()", "__import__('os')", "S > 1.5", "S ** 9", "S == 1 or f(S)"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no condition; it may hold integers"):
        conditions.names(text)


@pytest.fixture
def task() -> Task:
    return content.load_task("fp8_gemm", Path.cwd())


def with_condition(task: Task, condition: str) -> Task:
    return Task.model_validate({**task.model_dump(), "requires": [condition]})


def test_a_shape_that_breaks_one_is_refused_by_its_sizes(task: Task) -> None:
    task = with_condition(task, "N >= 32 or M < 4096")
    with pytest.raises(ValueError, match="shape 'mine': M = 4096, N = 16, but the task demands N >= 32 or M"):
        task.validate_shape(Shape(name="mine", dims={"M": 4096, "N": 16, "K": 32}))


def test_a_condition_on_what_is_no_dimension_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="names Q, not in"):
        with_condition(task, "M > Q")


def test_hidden_shapes_meet_them_and_say_so_when_none_can(task: Task) -> None:
    tied = task.model_copy(update={"requires": ("M >= N",)})
    assert all(s.dims["M"] >= s.dims["N"] for s in hidden_shapes(tied, random.Random(0)))
    never = tied.model_copy(update={"hidden": Hidden(dims={"M": (1, 1), "N": (16, 32), "K": (16, 32)})})
    with pytest.raises(UsageError, match=r"no sizes within hidden\.dims meet what it requires: M >= N"):
        hidden_shapes(never, random.Random(0))
