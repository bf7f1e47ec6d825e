"""One number for a candidate: the geometric mean over all timing shapes, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from kopt.machine.products import Product
from kopt.records import Measurement, Prediction, Quantity, Task

REGIME = "burst"
"""The regime whose measurements are scored: a steady clock depends on the cooling of the machine, not on the kernel."""

PRUNE = 1.5
"""What sure predictions call so much slower than the best is not measured: they rank well, and the worst that is known
of them was wrong by half (kernels/msa_index/README.md)."""


def score(task: Task, product: Product, results: Sequence[Prediction] | Sequence[Measurement]) -> float | None:
    """Geometric mean of the task's metric (a fraction of 1) over every timing shape; None when one lacks a number.

    A product without the task's peak has no utilization and so no score.
    """
    if task.score.metric == "utilization" and product.peak(task.score.peak) is None:
        return None
    by_shape = {result.shape: _metric(task, result) for result in results if _counts(task, result)}
    values = [by_shape.get(shape.name) for shape in task.timing]
    found = [value for value in values if value is not None and value > 0]
    if len(found) < len(values):
        return None
    return exp(sum(log(value) for value in found) / len(found))


def sure(task: Task, product: Product, predictions: Sequence[Prediction]) -> float | None:
    """The modelled score where the model trusts itself at every shape; else None, and nothing is given up for it."""
    return None if any(p.confidence == "low" for p in predictions) else score(task, product, predictions)


def outclassed(modelled: float | None, best: float) -> str:
    """Why a point is not worth the device's time, from modelled scores; "" when it is."""
    if modelled is None or modelled * PRUNE >= best:
        return ""
    return f"modelled {best / modelled:.1f} times as slow as the best point"


def _counts(task: Task, result: Prediction | Measurement) -> bool:
    if isinstance(result, Prediction):
        return True
    return result.regime == (REGIME if REGIME in task.regimes else task.regimes[0])


def _metric(task: Task, result: Prediction | Measurement) -> float | None:
    value = result.utilization if task.score.metric == "utilization" else result.roofline
    return value.value if isinstance(value, Quantity) else value
