"""Work that a call owes: what falls short of the task's cost is named, and honest ways to count otherwise are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kopt import content
from kopt.evaluate import hooks
from kopt.evaluate.predict.counted import CountedLaunch, Loop, Mma, Traffic
from kopt.evaluate.predict.work import in_full, shortfall
from kopt.records import Finding, Prediction, Status

TASK = content.load_task("fp8_gemm", Path(__file__).resolve().parents[3])
SHAPE = next(shape for shape in TASK.timing if shape.name == "4k-cube")
TILES = 32 * 32


def gemm(
    programs: int = TILES, turns: int = 32, tile: int = 128, stored: float = 1.0, buffer: str = "out", **fields: Any
) -> CountedLaunch:
    """4096 cubed in square tiles; `stored` is what masks leave of each tile."""
    most = 2 * tile * tile
    out = Traffic(
        buffer=buffer, direction="store", feed="pointer", requests=1, bytes=stored * most, sectors=stored * most / 32,
        lines=stored * most / 128, most=most,
    )  # fmt: skip
    mma = () if not turns else (Mma(a="fp8e4nv", b="fp8e4nv", m=tile, n=tile, k=128, count=turns),)
    loop = Loop(lines=(0, 0), executions=1, mma=mma, operations=fields.pop("operations", {}), traffic=(out,))
    given = {"name": "gemm", "grid": (programs, 1, 1), "programs": programs, "sampled": 3, "loops": (loop,)}
    return CountedLaunch(**{**given, **fields})


def found(
    *launches: CountedLaunch, operations: tuple[str, ...] = (), moved: int = 0, compared: bool = False
) -> Finding | None:
    short = shortfall(TASK, SHAPE, hooks.cost(TASK, SHAPE), launches, operations, moved, compared=compared)
    return short.finding if short else None


def test_the_whole_work_owes_nothing() -> None:
    assert found(gemm()) is None


@pytest.mark.parametrize(("tiles", "counted"), [(TILES // 8, "4.194e+06 bytes"), (TILES * 3 // 4, "2.517e+07 bytes")])
def test_missing_tiles_are_a_rejection_that_names_shape_counted_and_due(tiles: int, counted: str) -> None:
    finding = found(gemm(tiles))
    assert finding is not None
    assert (finding.rule, finding.status, finding.shape) == ("predict.work", Status.REJECTED, "4k-cube")
    assert counted in finding.message
    assert "of the 3.355e+07" in finding.message


def test_missing_products_are_a_rejection() -> None:
    finding = found(gemm(turns=16))
    assert finding is not None
    assert "50.0% of the 1.374e+11" in finding.message


def test_no_products_at_all_are_a_rejection_where_the_task_wants_matrix_instructions() -> None:
    assert found(gemm(turns=0)) is not None


def test_products_outside_of_matrix_instructions_are_work_where_the_task_does_not_ask_for_these() -> None:
    sums = gemm(turns=0, operations={"float": 4096.0 * 128 * 128, "reduce": 4096.0 * 128 * 128})
    free = TASK.model_copy(update={"provenance": TASK.provenance.model_copy(update={"mma": "any"})})
    assert shortfall(free, SHAPE, hooks.cost(free, SHAPE), [sums], (), 0) is None
    # A sum that nobody needs is interpreted and counted, and left out by the compiler.
    idle = gemm(turns=16, operations={"float": 4096.0 * 128 * 128})
    assert found(idle) is not None


def test_a_time_that_is_given_all_the_same_is_that_of_all_the_work() -> None:
    short = shortfall(TASK, SHAPE, hooks.cost(TASK, SHAPE), [gemm(turns=16, hurried=True)], (), 0)
    assert short is not None
    assert (short.finding.status, short.pace) == (None, 0.5)
    half = Prediction(shape="4k-cube", us=100.0, utilization=0.8, roofline=0.9, confidence="high")
    whole = in_full(half, short.pace)
    assert (whole.us, whole.utilization, whole.roofline, whole.confidence) == (200.0, 0.4, 0.45, "low")
    assert "50.0%" in whole.warnings[-1]


def test_what_a_mask_holds_back_counts_as_stored() -> None:
    # Of programs at an edge too few or too many may be among those that are looked at.
    assert found(gemm(stored=0.5)) is None


def test_a_workspace_is_no_output() -> None:
    assert found(gemm(buffer="buffer 5")) is not None


def test_what_aten_moves_may_be_the_output() -> None:
    assert found(gemm(buffer="buffer 5"), moved=6 * 4096 * 4096, operations=("copy_",)) is None


def test_a_librarys_products_are_not_missing() -> None:
    assert found(gemm(turns=0), operations=("_scaled_mm",)) is None


@pytest.mark.parametrize(
    "doubt",
    [
        {"warnings": ("a branch depends on data: one side was counted",)},
        {"warnings": ("a loop's end depends on data: one iteration was counted",)},
        {"warnings": ("inline assembly: its instructions are estimated",)},
        {"hurried": True},
        {"sampled": 1},
    ],
)
def test_what_is_not_counted_for_sure_is_a_warning(doubt: dict[str, Any]) -> None:
    finding = found(gemm(TILES // 8, **doubt))
    assert finding is not None
    assert finding.status is None
    assert "not held against it" in finding.message


def test_where_outputs_are_compared_fewer_products_are_a_warning_and_fewer_stores_are_not() -> None:
    half = found(gemm(turns=16), compared=True)
    assert half is not None
    assert (half.status, "FLOPs" in half.message) == (None, True)
    few = found(gemm(TILES // 8), compared=True)
    assert few is not None
    assert few.status is Status.REJECTED


def test_products_that_hang_on_integer_inputs_are_a_warning_and_stores_are_not() -> None:
    task = content.load_task("msa_index", Path(__file__).resolve().parents[3])
    shape = task.timing[0]
    cost = hooks.cost(task, shape)
    # Where every block is listed, no product is needed; a list is, always.
    lists = int(cost.written) // (2 * 128 * 128)
    idle = gemm(lists, turns=0, buffer="ids")
    warned, rejected = (
        shortfall(task, shape, cost, [launch], (), 0) for launch in (idle, gemm(lists // 2, turns=0, buffer="ids"))
    )
    assert warned is not None
    assert (warned.finding.status, "integers" in warned.finding.message, warned.pace) == (None, True, 1.0)
    assert rejected is not None
