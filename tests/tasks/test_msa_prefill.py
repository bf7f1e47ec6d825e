"""MSA prefill: its composed families pass and are current, and mutants of them are killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kopt import content
from kopt.evaluate import hooks
from kopt.evaluate.answers import problems
from kopt.evaluate.numerics import Checked, Numerics
from kopt.machine.products import product
from kopt.msa import compose, reference
from kopt.msa.rounding import allowed
from kopt.records import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

KERNELS = Path(__file__).parents[2] / "kernels"
SOURCES = {family.name: compose.compose(family, KERNELS) for family in compose.FAMILIES}

# Edits of a composed family, and the problem that shows what they do.
MUTANTS = {
    "the first head's lists for all": ("ragged ties", "kv_outer", "(head.to(tl.int64) * T + token) * K", "token * K"),
    "fifteen blocks": ("long ties", "kv_outer", "attend_msa_attend(\n", "ids[..., 15] = -1\n    attend_msa_attend(\n"),
    "dense beyond its reach": ("long m3_like", "kv_outer", "<= DENSE_UP_TO", "<= 4096"),
    "dense without a mask": ("short random", "kv_outer", "key[None, :] <= position[:, None]", "key[None, :] < len_k"),
}


@pytest.fixture(scope="module")
def task() -> Task:
    return content.load_task("msa_prefill", Path.cwd())


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, task: Task, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Checked]]]:
    from kopt.evaluate.workers import Workers

    h200 = product("h200")
    named = {f"{p.shape.name} {p.family}": p for p in problems(task)}
    items = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    asked = {name for item in items for name in item.callspec.params.values()}
    with Workers() as workers, ThreadPoolExecutor(workers.cores) as pool:
        numerics = Numerics(workers, tmp_path_factory.mktemp("store"), deadline=400)
        jobs = {
            name: pool.submit(numerics.check, task, text, {}, 0, h200)
            for name, text in SOURCES.items()
            if name in asked
        }
        for name, (problem, family, old, new) in MUTANTS.items():
            assert old in SOURCES[family], name
            text = SOURCES[family].replace(old, new)
            jobs[name] = pool.submit(numerics.check, task, text, {}, 0, h200, [named[problem]])
        yield jobs


@pytest.mark.parametrize("family", compose.FAMILIES, ids=lambda family: family.name)
def test_a_file_is_what_its_parts_compose_to(family: compose.Family) -> None:
    assert (KERNELS / "msa_prefill" / f"{family.name}.py").read_text() == SOURCES[family.name]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name == "plain" else ()) for name in SOURCES]
)
def test_a_family_passes(family: str, task: Task, checks: dict[str, Future[Checked]]) -> None:
    checked = checks[family].result()
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert len(checked.graded) == len(problems(task))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, checks: dict[str, Future[Checked]]) -> None:
    assert any(checks[name].result().findings.values())


@pytest.mark.parametrize("family", ["random", "m3_like", "ties", "odd"])
def test_the_index_leaves_no_doubt_but_between_copies(family: str, task: Task) -> None:
    from kopt.msa.index import scored

    module = hooks.load(task)
    dims = {"T": 20, "S": 6000, "HQ": 16, "HKV": 2, "OFFSETS": 3}
    inputs = module.make_inputs(dims, family, 1, "cpu")
    for part in scored(inputs["iq"], inputs["ik"], inputs["cu_q"], inputs["cu_k"]):
        own = (part.position // 128).clamp(min=0)
        before = torch.arange(part.score.shape[-1]) < own[:, None]
        best = part.score.masked_fill(~before, float("-inf")).sort(-1, descending=True).values[..., :17]
        gap = (best[..., :-1] - best[..., 1:]).nan_to_num(nan=256.0)
        assert (gap[best[..., 1:] > float("-inf")] > (-1 if family == "ties" else 100)).all()


@pytest.mark.parametrize("family", ["random", "ties"])
def test_slices_are_rows_of_the_reference_and_its_bound(task: Task, family: str) -> None:
    module = hooks.load(task)
    dims = {"T": 12, "S": 3800, "HQ": 8, "HKV": 1, "OFFSETS": 3}
    inputs = module.make_inputs(dims, family, 3, "cpu")
    want = module.reference(inputs, dims)
    bound = module.bound(inputs, want, dims)
    index = torch.tensor([11, 0, 8])
    some, some_bound = module.slices(inputs, dims, "T", index)
    for got, all_ in ((some, want), (some_bound, bound)):
        torch.testing.assert_close(got["out"], all_["out"][index], equal_nan=True, rtol=1e-9, atol=1e-12)


def test_copied_blocks_may_be_rounded_alike(task: Task) -> None:
    module = hooks.load(task)
    dims = {"T": 8, "S": 900, "HQ": 8, "HKV": 1, "OFFSETS": 2}
    bounds = {}
    for family in ("random", "ties"):
        inputs = module.make_inputs(dims, family, 3, "cpu")
        want = module.reference(inputs, dims)
        rows = module._attended(inputs, errors=True)
        bounds[family] = module.bound(inputs, want, dims)["out"] / allowed(rows)
    assert (bounds["random"] == 1).all()
    assert (bounds["ties"] > 1.5).any()


def test_up_to_2048_tokens_it_is_dense_attention(task: Task) -> None:
    module = hooks.load(task)
    dims = {"T": 6, "S": 2048, "HQ": 8, "HKV": 1, "OFFSETS": 2}
    inputs = module.make_inputs(dims, "random", 0, "cpu")
    dense, _ = reference.dense(*(inputs[name] for name in ("q", "k", "v", "cu_q", "cu_k")))
    torch.testing.assert_close(module.reference(inputs, dims)["out"], dense, rtol=1e-9, atol=1e-12)
