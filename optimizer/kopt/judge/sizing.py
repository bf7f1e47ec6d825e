"""How many calls a batch has and how many different operands they share, from physics and memory."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from types import ModuleType

from kopt.errors import UsageError
from kopt.evaluate import hooks as task_hooks
from kopt.judge.backends import JudgeSide
from kopt.judge.deck import groups, variants_for
from kopt.judge.layout import Layout, call_bytes, layout
from kopt.machine.products import Product
from kopt.records import Cost, Shape, Task, conditions

_CALLS_UNKNOWN = 12
"""Calls in a batch where no physics bounds them."""
_DRAWS = 10_000
"""Of hidden sizes, before those that the task's conditions allow are taken to be none."""
_PART = 0.3
"""Of the free memory, for one arm: two are alive, and references need room."""


@dataclass(frozen=True)
class Sizes:
    """`slots` is the most calls a batch can have."""

    layout: Layout
    variants: int
    slots: int


def floor_us(cost: Cost, product: Product, kind: str) -> float:
    """Microseconds below which no kernel can be: at the highest clock, and with every byte moved once at full speed.

    Bytes that fit in the last-level cache could be there already, so they are not counted.
    """
    peak = product.peak_at(kind, product.max_clock_mhz) or product.peak(kind)
    compute = cost.flops / (peak * 1e6) if peak else 0.0
    return max(compute, max(0.0, cost.read + cost.written - product.l2_bytes) / (product.hbm_tbs * 1e6))


def sizes(
    task: Task,
    hooks: ModuleType,
    shape: Shape,
    backend: JudgeSide,
    product: Product | None,
    batch_us: float,
    most: int,
    memory: int,
) -> Sizes:
    """Room for a batch of `batch_us` of the fastest kernel that physics allows, each call with outputs of its own.

    `memory` is what judge and arms together may take, in bytes.
    """
    slots = _CALLS_UNKNOWN
    if backend.measures and product is not None:
        floor = floor_us(task_hooks.cost(task, shape), product, task.score.peak)
        slots = math.ceil(batch_us / floor) + 1 if floor else most
    slots = max(2, min(slots, most))
    count = len(groups(task, hooks))
    read, written = call_bytes(task, shape.dims)
    room = _PART * memory
    while True:
        variants = max(variants_for(slots, count), math.ceil(2 * backend.cache_bytes / (read + written)) + 1)
        # The private copy of the inputs counts too.
        if slots <= 2 or 2 * variants * read + slots * written <= room:
            return Sizes(layout(task, shape.dims, variants, slots), variants, slots)
        slots = max(2, int(slots * 0.8))


def few(task: Task, shape: Shape, calls: int, memory: int) -> Layout:
    """For so many calls that share nothing, or as many as there is room for: a cache of a million tokens is one."""
    read, written = call_bytes(task, shape.dims)
    count = max(1, min(calls, int(_PART * memory) // max(1, 2 * read + written)))
    return layout(task, shape.dims, count, count)


def hidden_shapes(task: Task, rng: random.Random) -> list[Shape]:
    """Ragged shapes that nobody has seen before this verdict."""
    count = task.hidden.count if task.hidden.dims else 0
    return [Shape(name=f"hidden-{number + 1}", dims=_hidden(task, rng)) for number in range(count)]


def _hidden(task: Task, rng: random.Random) -> dict[str, int]:
    for _ in range(_DRAWS):
        dims = {}
        for name, (low, high) in task.hidden.dims.items():
            step = task.dims[name].multiple_of
            # Even in the exponent: small and large sizes alike.
            size = math.exp(rng.uniform(math.log(max(1, low)), math.log(high)))
            dims[name] = max(task.dims[name].min, low, round(size / step) * step)
            dims[name] -= step if dims[name] > high else 0
        if all(conditions.holds(condition, dims) for condition in task.requires):
            return dims
    raise UsageError(f"task {task.name}: no sizes within hidden.dims meet what it requires: {'; '.join(task.requires)}")
