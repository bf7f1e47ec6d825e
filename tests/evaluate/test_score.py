"""The score is the geometric mean over every timing shape, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.score import outclassed, score, sure
from kopt.machine.products import Product, product
from kopt.records import Measurement, Prediction, Quantity

TASK = content.load_task("fp8_gemm", Path(__file__).resolve().parents[2])
NAMES = [shape.name for shape in TASK.timing]


def predictions(values: list[float]) -> list[Prediction]:
    return [Prediction(shape=n, us=1, utilization=v, roofline=v / 2) for n, v in zip(NAMES, values, strict=False)]


def measured(values: list[float], regime: str) -> list[Measurement]:
    us = Quantity(value=1)
    return [
        Measurement.model_validate({"shape": n, "regime": regime, "host_us": us, "utilization": Quantity(value=v)})
        for n, v in zip(NAMES, values, strict=True)
    ]


def test_it_is_a_geometric_mean() -> None:
    assert score(TASK, product("h200"), predictions([0.1, 0.2, 0.4, 0.8])) == pytest.approx(
        (0.1 * 0.2 * 0.4 * 0.8) ** 0.25
    )


def test_a_missing_shape_means_no_score() -> None:
    assert score(TASK, product("h200"), predictions([0.5, 0.5, 0.5])) is None
    assert score(TASK, product("h200"), []) is None


def test_a_product_without_the_peak_has_no_score() -> None:
    row = product("h200")
    bare = Product(**{**{f: getattr(row, f) for f in row.__dataclass_fields__}, "peaks": {"bf16": 989.5}})
    assert score(TASK, bare, predictions([0.5] * 4)) is None


def test_the_metric_is_the_tasks() -> None:
    task = TASK.model_copy(update={"score": TASK.score.model_copy(update={"metric": "roofline"})})
    assert score(task, product("h200"), predictions([0.5] * 4)) == pytest.approx(0.25)


def test_measurements_are_scored_in_the_burst_regime() -> None:
    both = measured([0.6] * 4, "burst") + measured([0.5] * 4, "sustained")
    assert score(TASK, product("h200"), both) == pytest.approx(0.6)
    assert score(TASK, product("h200"), measured([0.5] * 4, "sustained")) is None


def test_what_is_modelled_far_behind_is_not_measured() -> None:
    assert outclassed(0.25, 0.75).startswith("modelled 3.0 times")
    assert outclassed(0.50, 0.70) == outclassed(0.70, 0.70) == outclassed(None, 0.70) == ""


def test_a_model_in_doubt_of_itself_at_one_shape_gives_no_point_up() -> None:
    certain = [p.model_copy(update={"confidence": "medium"}) for p in predictions([0.5] * 4)]
    doubtful = [*certain[:3], certain[3].model_copy(update={"confidence": "low"})]
    assert sure(TASK, product("h200"), certain) == pytest.approx(0.5)
    assert sure(TASK, product("h200"), doubtful) is None
