"""Binaries made without a GPU are those that a runner asks Triton's cache for, whatever folder it works in."""

from __future__ import annotations

import json
import os
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from kopt import content
from kopt.evaluate.binaries import Binaries
from kopt.evaluate.evaluator import Evaluator
from kopt.evaluate.stage import Case
from kopt.evaluate.steering import Steering
from kopt.evaluate.workers import Workers
from kopt.judge import shelf
from kopt.machine.products import product
from kopt.records import Submission, Task, digest

SOURCE = """
import triton
import triton.language as tl


@triton.jit
def blend_kernel(a, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at, mask=at < n), mask=at < n)


def blend(a, scale, b, out, *, BLOCK=128):
    if a.shape[0] == 1:
        raise ValueError("not for this shape")
    blend_kernel[(triton.cdiv(out.numel(), BLOCK),)](a, out, out.numel(), BLOCK=BLOCK)
"""


@pytest.fixture(scope="module")
def task() -> Task:
    return content.read_task(Path(__file__).parents[1] / "judge" / "tasks" / "blend")


def entries(cache: Path) -> dict[str, float]:
    return {str(f.relative_to(cache)): f.stat().st_mtime_ns for f in cache.glob("*/*.cubin")}


def case(task: Task, source: str = SOURCE) -> Case:
    return Case(task, Submission(n=1, sha=digest(source, {}), origin="user"), source, product("h200"))


def test_a_process_that_adopts_them_compiles_nothing(task: Task, tmp_path: Path) -> None:
    with Workers(cores=4) as workers:
        store = Binaries(workers, Steering(workers, tmp_path))
        store.begin(case(task), checks=True)
        assert len(store._begun[next(iter(store._begun))][0]) == 2
        with store.taken(case(task), checks=True) as (cache, _):
            assert cache is not None
            made = entries(cache)
            assert made
            # As a runner starts: files copied, notes rewritten. Then the same calls, elsewhere.
            shelf.copy(cache, tmp_path / shelf.CACHE)
        assert not cache.exists()
        assert store._begun == {}
        shelf.adopt(tmp_path / shelf.CACHE)
        copied = entries(tmp_path / shelf.CACHE)
        payload = {
            "source": SOURCE, "entry": "blend", "target": "h200", "parameters": {},
            "shapes": [[{"sizes": s.sizes(shape.dims), "dtype": s.dtype} for s in task.tensors]
                       for shape in task.timing],
        }  # fmt: skip
        reply = workers.run(
            "compile", "kopt.judge.binaries:make", payload, folder=tmp_path, deadline=60.0, trusted=True
        )
        assert reply.value == {"shapes": len(task.timing)}, reply
        store.close()
    assert entries(tmp_path / shelf.CACHE) == copied
    assert copied.keys() == made.keys()


def test_a_source_that_cannot_be_imported_leaves_nothing_and_breaks_nothing(task: Task, tmp_path: Path) -> None:
    with Workers() as workers:
        store = Binaries(workers, Steering(workers, tmp_path))
        store.begin(case(task, "import nothing_of_that_name\n"), checks=True)
        with store.taken(case(task, "import nothing_of_that_name\n"), checks=True) as (cache, _):
            assert cache is not None
            assert not cache.exists()
        with store.taken(case(task, "never begun"), checks=True) as (cache, _):
            assert cache is None
        store.close()


def test_only_plain_files_of_a_cache_are_copied(tmp_path: Path) -> None:
    key = tmp_path / "from" / "KEY"
    key.mkdir(parents=True)
    (key / "kernel.cubin").write_bytes(b"cubin")
    (key / "secret").symlink_to("/etc/passwd")
    (tmp_path / "from" / "linked").symlink_to(tmp_path)
    os.mkfifo(key / "pipe")
    (tmp_path / "from" / "stray").write_text("")
    shelf.copy(tmp_path / "from", tmp_path / "to")
    assert [p.relative_to(tmp_path / "to").as_posix() for p in (tmp_path / "to").rglob("*")] == [
        "KEY", "KEY/kernel.cubin",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"child_paths": 3}', '{"child_paths": {"a": 1}}', "\xff"])
def test_notes_that_make_no_sense_are_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "KEY").mkdir()
    note = tmp_path / "KEY" / "__grp__kernel.json"
    note.write_text(text, encoding="latin-1")
    shelf.adopt(tmp_path)


def test_notes_name_the_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "KEY").mkdir()
    note = tmp_path / "KEY" / "__grp__kernel.json"
    note.write_text(json.dumps({"child_paths": {"kernel.cubin": "/elsewhere/triton/KEY/kernel.cubin"}}))
    shelf.adopt(tmp_path)
    assert json.loads(note.read_text()) == {"child_paths": {"kernel.cubin": str(tmp_path / "KEY" / "kernel.cubin")}}


def test_what_was_given_out_lately_is_not_made_again(task: Task, tmp_path: Path) -> None:
    with Workers(cores=2) as workers:
        store = Binaries(workers, Steering(workers, tmp_path))
        given = []
        for _ in range(2):
            store.begin(case(task), checks=True)
            with store.taken(case(task), checks=True) as (cache, _):
                given.append(cache is not None)
        assert given == [True, False]
        store.close()


def test_trials_need_no_check_shapes_and_a_later_verdict_gets_them(task: Task, tmp_path: Path) -> None:
    wide = task.model_copy(update={"check_gpu": (*task.check_gpu, *task.check_cpu)})
    assert wide.check_gpu
    with Workers(cores=2) as workers:
        store = Binaries(workers, Steering(workers, tmp_path))
        given = []
        for checks in (False, False, True, True, False):
            store.begin(case(wide), checks=checks)
            with store.taken(case(wide), checks=checks) as (cache, hidden):
                given.append(cache is not None)
                assert len(hidden) == (wide.hidden.count if checks and cache is not None else 0)
        assert given == [True, False, True, False, False]
        store.close()


def test_what_is_dropped_leaves_nothing(task: Task, tmp_path: Path) -> None:
    with Workers(cores=2) as workers:
        store = Binaries(workers, Steering(workers, tmp_path))
        store.begin(case(task), checks=True)
        futures, _ = store._begun[next(iter(store._begun))]
        store.drop(case(task), checks=True)
        assert store._begun == {}
        wait(futures)
        store._pool.shutdown()
        assert list(store._store.iterdir()) == []
        store.close()


class Noted(Binaries):
    """Remembers what was begun: each with the check shapes, or without."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[bool] = []

    def begin(self, case: Case, *, checks: bool) -> None:
        self.asked.append(checks)
        super().begin(case, checks=checks)


def test_of_a_trial_that_gets_no_further_than_its_prediction_nothing_is_left() -> None:
    source = (Path(__file__).parents[1] / "attacks" / "guilty" / "E4_few_tiles_when_timed.py").read_text()
    with Evaluator("fp8_gemm") as evaluator:
        evaluator._binaries = store = Noted(evaluator.workers, evaluator._steering)
        submission = Submission(n=1, sha=digest(source, {}), origin="user")
        trial = evaluator.try_parameters(submission, source, {}, 1)
        assert {finding.rule for finding in trial.findings} == {"predict.work"}
        assert store.asked == [False]
        assert store._begun == {}
