"""Every family of kernels/msa_attend passes the whole check, in every regime, at its default and at another point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.numerics import Numerics
from kopt.machine.products import product
from kopt.records import Parameters, Task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux"),
]

ROOT = Path(__file__).parents[2]
FAMILIES = sorted((ROOT / "kernels" / "msa_attend").glob("*.py"))
OTHER: dict[str, Parameters] = {
    "q_outer": {"BLOCK_N": 128},
    "union": {"ROWS": 128, "BLOCK_N": 128},
    "kv_outer": {"ROWS": 128, "CAP": 256},
    "adaptive": {"MOST": 2, "CAP": 128},
}


@pytest.fixture(scope="module")
def task() -> Task:
    return content.read_task(ROOT / "tasks" / "msa_attend")


@pytest.fixture(scope="module")
def numerics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Numerics]:
    from kopt.evaluate.workers import Workers

    with Workers() as workers:
        yield Numerics(workers, tmp_path_factory.mktemp("store"), deadline=800)


POINTS = [(path, parameters) for path in FAMILIES for parameters in ({}, OTHER[path.stem])]
POINTS += [(path, {"ALONE": 0}) for path in FAMILIES if path.stem == "adaptive"]


@pytest.mark.parametrize(("path", "parameters"), POINTS, ids=lambda of: of.stem if isinstance(of, Path) else str(of))
def test_it_passes(path: Path, parameters: Parameters, task: Task, numerics: Numerics) -> None:
    checked = numerics.check(task, path.read_text(encoding="utf-8"), parameters, 0, product("h200"))
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert {checked.problems[index].family for index in checked.graded} == set(task.input_families)
