"""Secret rows of a task whose inputs cannot be cut alike: the judge asks the task for them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.evaluate import hooks
from kopt.judge import snapshot
from kopt.judge.backends.cpu import CpuJudge
from kopt.judge.deck import Deck
from kopt.judge.layout import layout
from kopt.judge.sizing import hidden_shapes
from kopt.judge.snapshot import Snapshot
from kopt.records import Shape, Task

SHAPE = Shape(name="small", dims={"T": 4, "S": 700, "HQ": 16, "HKV": 2, "OFFSETS": 3})
CALLS = 3


@pytest.fixture(scope="module")
def task() -> Task:
    return content.read_task(Path(__file__).parents[2] / "tasks" / "msa_attend")


@pytest.fixture
def cards(task: Task) -> Deck:
    plan = layout(task, SHAPE.dims, CALLS, CALLS)
    arena, _ = CpuJudge("").share(plan.total_bytes)
    return Deck(task, hooks.load(task), SHAPE, plan, arena, "cpu")


def honest(cards: Deck, calls: list[tuple[int, ...]]) -> None:
    for call in calls:
        want, _ = cards.expected(cards.inputs(call), SHAPE.dims)
        cards.outputs["out"][cards.slot(call)].copy_(want["out"])


@pytest.mark.parametrize("family", ["random", "pick", "odd"])
def test_right_outputs_pass(family: str, cards: Deck) -> None:
    cards.draw(family)
    calls = cards.deal(CALLS)
    honest(cards, calls)
    assert Snapshot.draw(cards, CALLS).take().verify(calls, family) is None


def test_a_wrong_query_of_one_call_is_found_in_its_slices(cards: Deck) -> None:
    cards.draw("random")
    calls = cards.deal(CALLS)
    honest(cards, calls)
    secret = Snapshot.draw(cards, CALLS)
    wrong = next(n for n, call in enumerate(calls) if cards.slot(call) != secret.whole)
    cards.outputs["out"][cards.slot(calls[wrong]), 2, 5, 64:] += 0.5
    finding = secret.take().verify(calls, "random")
    assert finding is not None
    assert f"call {wrong + 1} of {CALLS}" in finding.message
    assert "of the slices T" in finding.place


def test_outputs_of_another_problem_are_found(cards: Deck) -> None:
    cards.draw("random")
    calls = cards.deal(CALLS)
    honest(cards, calls)
    cards.outputs["out"].copy_(torch.roll(cards.outputs["out"], 1, 0))
    assert Snapshot.draw(cards, CALLS).take().verify(calls, "random") is not None


def test_hidden_shapes_are_of_heads_that_belong_together(task: Task) -> None:
    for shape in hidden_shapes(task, random.Random(1)):
        task.validate_shape(shape)


def test_a_shape_is_timed_with_the_first_of_its_own_inputs(task: Task) -> None:
    assert {shape.name: task.timed_family(shape) for shape in task.timing}["128k-hot_block"] == "hot_block"
    assert task.timed_family(SHAPE) == task.input_families[0]


def test_rows_of_a_large_output_stand_for_all_of_it(cards: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(snapshot.LARGE, "sample", 0)
    cards.draw("random")
    calls = cards.deal(CALLS)
    honest(cards, calls)
    monkeypatch.setattr(cards, "expected", None)  # nobody asks for all of it
    secret = Snapshot.draw(cards, CALLS).take()
    assert secret.verify(calls, "random", "sample") is None
    assert secret.rms is not None
    wrong = next(call for call in calls if cards.slot(call) == secret.whole)
    cards.outputs["out"][cards.slot(wrong), :, 5, 64:] += 0.5
    assert secret.again()._whole(secret.whole, cards.inputs(wrong), "random", 0) is not None


@pytest.mark.parametrize("name", ["msa_decode", "msa_decode_e4m3"])
@pytest.mark.parametrize("family", ["ragged", "odd"])
def test_slices_of_several_calls_are_those_of_each(name: str, family: str) -> None:
    decode = content.read_task(Path(__file__).parents[2] / "tasks" / name)
    shape = Shape(name="small", dims={"B": 6, "HQ": 32, "HKV": 2, "PAGES": 130, "WIDTH": 20})
    plan = layout(decode, shape.dims, 2, CALLS)
    arena, _ = CpuJudge("").share(plan.total_bytes)
    cards = Deck(decode, hooks.load(decode), shape, plan, arena, "cpu")
    cards.draw(family)
    calls, picked = cards.deal(CALLS), torch.tensor([1, 4, 5])
    want, bound = cards.expected_slices_of(calls, "B", picked)
    for number, call in enumerate(calls):
        alone = cards.expected_slices(cards.inputs(call), "B", picked)
        torch.testing.assert_close(want["out"][number], alone[0]["out"], equal_nan=True)
        torch.testing.assert_close(bound["out"][number], alone[1]["out"], equal_nan=True)


def test_a_wrong_list_is_found_by_the_tasks_own_comparison_of_slices() -> None:
    index = content.read_task(Path(__file__).parents[2] / "tasks" / "msa_index")
    shape = Shape(name="small", dims={"T": 4, "S": 2700, "HKV": 2, "OFFSETS": 3})
    plan = layout(index, shape.dims, CALLS, CALLS)
    arena, _ = CpuJudge("").share(plan.total_bytes)
    cards = Deck(index, hooks.load(index), shape, plan, arena, "cpu")
    cards.draw("integers")
    calls = cards.deal(CALLS)
    for call in calls:
        want, _ = cards.expected(cards.inputs(call), shape.dims)
        cards.outputs["ids"][cards.slot(call)].copy_(want["ids"])
    secret = Snapshot.draw(cards, CALLS)
    assert secret.take().verify(calls, "integers") is None
    wrong = next(n for n, call in enumerate(calls) if cards.slot(call) != secret.whole)
    cards.outputs["ids"][cards.slot(calls[wrong]), 1, 3, 2] = -1
    finding = secret.again().verify(calls, "integers", "slices")
    assert finding is not None
    assert finding.rule == "msa_index.packed"
    assert finding.place.startswith("token 3 ")
    assert f"call {wrong + 1} of {CALLS}" in finding.message
