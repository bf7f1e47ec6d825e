"""The check of the MSA attention task accepts every honest kernel and kills every mutant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from msa_attend_mutants import HONEST, MUTANTS, NAMED, edited

from kopt import content
from kopt.evaluate.answers import problems
from kopt.evaluate.numerics import Checked, Numerics
from kopt.machine.products import product
from kopt.records import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

PART = (("block-edge", "pick"), ("block-edge", "outlier"), ("two-groups", "odd"))
"""What kills a mutant here kills it in the whole check, of which this is a part."""
LONG = ("long", "pick")
"""One more for the longer tests: a list of 16."""


def cases(sources: dict[str, object]) -> list[object]:
    """The ones that the task's issue names always, the others among the longer tests."""
    return [pytest.param(name, marks=() if name in NAMED else pytest.mark.slow) for name in sources]


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Checked]]]:
    """Every source that is asked for, all in flight at once, since one interpreter keeps only one core busy."""
    from kopt.evaluate.workers import Workers

    task: Task = content.load_task("msa_attend", Path.cwd())
    whole = [p for p in problems(task) if (p.shape.name, p.family) in (*PART, LONG)]
    assert len(whole) == len(PART) + 1
    part = [p for p in whole if p.shape.name != LONG[0]]
    items = [item for item in request.session.items if item.path == Path(__file__)]
    names = {item.callspec.params["name"] for item in items if isinstance(item, pytest.Function)}
    with Workers() as workers, ThreadPoolExecutor(workers.cores) as pool:
        numerics = Numerics(workers, tmp_path_factory.mktemp("store"), deadline=400)
        yield {
            name: pool.submit(numerics.check, task, edited(edits), {"BLOCK_N": 128}, 0, product("h200"), chosen)
            for name, edits in (HONEST | MUTANTS).items()
            if name in names
            for chosen in (part if name in NAMED else whole,)
        }


@pytest.mark.parametrize("name", cases(HONEST))
def test_an_honest_kernel_passes(name: str, checks: dict[str, Future[Checked]]) -> None:
    checked = checks[name].result()
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert len(checked.graded) == len(checked.problems) >= len(PART)


@pytest.mark.parametrize("name", cases(MUTANTS))
def test_a_mutant_is_killed(name: str, checks: dict[str, Future[Checked]]) -> None:
    assert any(checks[name].result().findings.values())
