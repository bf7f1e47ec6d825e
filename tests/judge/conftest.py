"""A judge on the CPU backend, shared by the tests of a module: starting one imports torch twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.judge import Judge, Plan
from kopt.records import Task

QUICK = Plan(quads=1, batch_us=500.0, idle_s=0.0, call_seconds=2.0, seconds=60.0)


torch.set_num_threads(1)


@pytest.fixture(scope="session")
def blend() -> Task:
    return content.read_task(Path(__file__).parent / "tasks" / "blend")


@pytest.fixture(scope="session")
def judge(blend: Task) -> Iterator[Judge]:
    with Judge(blend, "cpu") as judge:
        yield judge
