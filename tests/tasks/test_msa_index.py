"""The check of the MSA index task accepts the shipped families and kills every mutant of the fused one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.answers import problems
from kopt.evaluate.numerics import Checked, Numerics
from kopt.machine.products import product
from kopt.records import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

FOLDER = Path(__file__).parents[2] / "kernels" / "msa_index"
FUSED = (FOLDER / "fused.py").read_text()
_SCORE = "score = tl.max(tl.dot(q, k.T), axis=1)"
_CLAMP = "score = tl.where(score > LOWEST, score, LOWEST)"
_LAUNCH = "    iq_desc = TensorDescriptor"
_MEMO = "    if iq.data_ptr() in seen:\n        return ids.copy_(seen[iq.data_ptr()])\n    seen[iq.data_ptr()] = ids\n"

# Edits of the fused family, and the problem that shows what they do. Wrong lists are in tests/msa/test_index.py.
MUTANTS = {
    "the mean of a block": ("long spikes", _SCORE, "score = tl.sum(tl.dot(q, k.T), axis=1)"),
    "later blocks listed": ("long spikes", 'tl.where(own > j, score, float("-inf"))', "score"),
    "own block listed twice": ("long spikes", "tl.where(own > j, score", "tl.where(own >= j, score"),
    "own block not forced": ("long spikes", "(own >= 0) & (split == 0)", "(own >= 1 << 20) & (split == 0)"),
    "last whole block left out": ("long spikes", "+ share, count)", "+ share, count - 1)"),
    "keys a token too late": ("long spikes", "k_start + j * BLOCK, 0", "k_start + j * BLOCK + 1, 0"),
    "first sequence's keys": ("ragged spikes", "k_start = tl.load(cu_k_ptr + seq)", "k_start = tl.load(cu_k_ptr)"),
    "positions from the first key": ("long spikes", "own = (k_len - q_len + token)", "own = token"),
    "first split alone": ("long spikes", "(of < splits * TOP)", "(of < TOP)"),
    "the best replaced": ("long spikes", "low = tl.min(values", "low = tl.max(values"),
    "NaN as a free place": ("shard nonfinite", _CLAMP, 'score = tl.where(score == score, score, float("-inf"))'),
    "lists remembered by pointer": ("long spikes", _LAUNCH, _MEMO + _LAUNCH),
    "nothing written": ("long spikes", _LAUNCH, "    if T > 1:\n        return\n" + _LAUNCH),
}  # fmt: skip


def edited(name: str) -> str:
    """The fused family with one edit made; an edit that no longer applies is an error of the test."""
    _, old, new = MUTANTS[name]
    if old not in FUSED:
        raise AssertionError(f"no place for {old!r}")
    return FUSED.replace(old, new).replace("def msa_index", "seen = {}\n\n\ndef msa_index")


@pytest.fixture(scope="module")
def task() -> Task:
    return content.load_task("msa_index", Path.cwd())


@pytest.fixture(scope="module")
def checks(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Checked]]]:
    from kopt.evaluate.workers import Workers

    h200 = product("h200")
    named = {f"{p.shape.name} {p.family}": p for p in problems(task)}
    with Workers() as workers, ThreadPoolExecutor(workers.cores) as pool:
        numerics = Numerics(workers, tmp_path_factory.mktemp("store"), deadline=200)
        whole = {
            path.stem: pool.submit(numerics.check, task, path.read_text(), {}, 0, h200)
            for path in sorted(FOLDER.glob("*.py"))
        }
        partly = {
            name: pool.submit(numerics.check, task, edited(name), {}, 0, h200, [named[MUTANTS[name][0]]])
            for name in MUTANTS
        }
        yield whole | partly


@pytest.mark.parametrize("family", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_a_family_passes(family: str, task: Task, checks: dict[str, Future[Checked]]) -> None:
    checked = checks[family].result()
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert len(checked.graded) == len(problems(task))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, checks: dict[str, Future[Checked]]) -> None:
    assert any(checks[name].result().findings.values())
