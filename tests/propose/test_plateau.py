"""A plateau climbs a ladder; it never ends a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import Made, load, write

from kopt.propose.plateau import LADDER, STEP, most_different, plan, representation
from kopt.records import Status
from kopt.run import Run

MODELS = ("a", "b")


def run_of(tmp_path: Path, made: list[Made], extra: list[dict[str, Any]] | None = None) -> Run:
    return load(write(tmp_path, made, stop=None, extra=extra or []))


def stale(count: int) -> list[Made]:
    return [Made(0.5, note="The best one"), *[Made(0.3, note=f"Idea {i}") for i in range(count)]]


def test_a_run_begins_with_getting_it_right(tmp_path: Path) -> None:
    assert plan(run_of(tmp_path, []), MODELS).mode == "start"


def test_failures_in_a_row_call_for_a_rescue_and_more_of_them_end_it(tmp_path: Path) -> None:
    def after(failed: int) -> str:
        made = [Made(0.5), *[Made(status=Status.WRONG)] * failed]
        return plan(run_of(tmp_path / str(failed), made), MODELS).mode

    assert [after(n) for n in (0, 2, 3, 5, 6)] == ["speed", "speed", "rescue", "rescue", "speed"]


def test_each_step_without_a_gain_climbs_one_rung(tmp_path: Path) -> None:
    modes = [plan(run_of(tmp_path / str(n), stale(n * STEP)), MODELS).mode for n in range(6)]
    assert modes == ["speed", "diagnose", "directions", "pivot", "parent", "speed"]


def test_after_a_whole_ladder_in_vain_the_next_model_is_asked(tmp_path: Path) -> None:
    whole = STEP * len(LADDER)
    models = [plan(run_of(tmp_path / str(n), stale(n)), MODELS).model for n in (whole - 1, whole, 2 * whole)]
    assert models == [0, 1, 0]


def test_the_model_that_found_the_best_one_goes_on(tmp_path: Path) -> None:
    assert plan(run_of(tmp_path, [Made(0.5, origin="model:b")]), MODELS).model == 1


def test_after_directions_kopt_pursues_the_one_least_like_what_was_tried(tmp_path: Path) -> None:
    ideas = ["wider tiles for both operands", "stream-K decomposition of the work", "tiles of other width"]
    extra: list[dict[str, Any]] = [
        {"type": "brief", "sha": "s", "text": ""},
        {"type": "episode", "episode": 1, "mode": "directions", "model": "a", "brief": "s", "opening": ""},
        {"type": "episode_end", "episode": 1, "why": "handed over", "summary": "", "ideas": ideas},
    ]
    made = [Made(0.5, note="Wider tiles"), *[Made(0.3, note="Tiles of another width")] * (2 * STEP)]
    run = run_of(tmp_path, made, extra)
    assert most_different(run) == ideas[1]
    assert plan(run, MODELS)[0:3] == ("pursue", 0, ideas[1])


def test_the_pivot_names_the_next_representation_that_was_not_taken() -> None:
    assert "TMA" in representation("tl.load(a_ptrs)", 3)
    assert "persistent" in representation("TensorDescriptor.from_tensor(a)", 3)
    assert "warp specialisation" in representation("TensorDescriptor; tl.num_programs(0)", 3)
    assert "Gluon" in representation("TensorDescriptor; tl.num_programs(0); warp_specialize=True", 3)
    assert "CUDA graph" in representation("TensorDescriptor; tl.num_programs(0)", 3 + len(LADDER))
    assert "CUDA graph" not in representation("TensorDescriptor; tl.num_programs(0)", 3 + len(LADDER), host=False)


def test_another_parent_is_no_ancestor_of_the_best_one(tmp_path: Path) -> None:
    made = [Made(0.2), Made(0.45, note="Other line"), Made(0.5, parent=1), *[Made(0.1, parent=3)] * (4 * STEP)]
    found = plan(run_of(tmp_path, made), MODELS)
    assert (found.mode, found.parent) == ("parent", 2)


def test_everything_is_a_function_of_the_run(tmp_path: Path) -> None:
    folder = write(tmp_path, stale(25), stop=None)
    assert plan(load(folder), MODELS) == plan(load(folder), MODELS)
