"""The checks of the decoding tasks accept the shipped families and kill every mutant of the split-K one."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.answers import problems
from kopt.evaluate.numerics import Numerics
from kopt.machine.products import product

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

KERNELS = Path(__file__).parents[2] / "kernels"
SPLIT_K = (KERNELS / "msa_decode" / "split_k.py").read_text()
E4M3 = (KERNELS / "msa_decode_e4m3" / "split_k.py").read_text()

_SCORE = "score = tl.max(tl.dot(q, k.T), axis=1)"
_PAGE = "page = tl.load(table_ptr + b * WIDTH + block, mask=block >= 0, other=0)"
_SEEN = "length - own * BLOCK, 0)"
_ROW = "scores = score_ptr + (b * HKV + h) * WIDTH"
_WEIGHT = 'tl.exp2(log - tl.where(high > float("-inf"), high, 0.0))'
_LENGTH = "min(tl.load(lens_ptr + b), WIDTH * BLOCK)\n    own"
_OWN = "page = tl.load(table_ptr + b * WIDTH + own)"

# Edits of the split-K family, and the problem that shows what they do.
MUTANTS = {
    "the mean of a block": ("long pick", _SCORE, "score = tl.sum(tl.dot(q, k.T), axis=1)"),
    "pages taken for consecutive": ("long pick", _PAGE, "page = block"),
    "own block left out": ("long pick", "if part == 0 and own >= 0:", "if part == 0 and own >= 1 << 20:"),
    "tokens after the last": ("short ragged", _SEEN, "BLOCK, 0)"),
    "last token left out": ("long pick", _SEEN, "length - own * BLOCK - 1, 0)"),
    "first block never listed": ("long pick", "mask=first < count", "mask=(first < count) & (first > 0)"),
    "head 0's scores for all": ("long pick", _ROW, "scores = score_ptr + b * HKV * WIDTH"),
    "a part lost": ("long pick", "min(own + 1, TOP), PARTS", "min(own + 1, TOP - 1), PARTS"),
    "parts added without weights": ("long paged", _WEIGHT, "tl.where(log == log, 1.0, log)"),
    "logits not scaled": ("long paged", "SCALE = tl.constexpr(0.12751743)", "SCALE = tl.constexpr(1.4426950)"),
    "lengths beyond the table": ("short odd", _LENGTH, "tl.load(lens_ptr + b)\n    own"),
    "numbers of no page read": ("short odd", _OWN, f"page = tl.maximum({_OWN[7:]}, 0) % PAGES"),
    "no tokens, no zeros": ("shard odd", "/ tl.where(total == 0, 1.0, total)", "/ total"),
}  # fmt: skip


@pytest.fixture(scope="module")
def numerics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Numerics]:
    from kopt.evaluate.workers import Workers

    with Workers() as workers:
        yield Numerics(workers, tmp_path_factory.mktemp("store"), deadline=200)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("msa_decode", "split_k"),
        pytest.param("msa_decode", "plain", marks=pytest.mark.slow),
        pytest.param("msa_decode_e4m3", "split_k", marks=pytest.mark.slow),
        pytest.param("msa_decode_e4m3", "plain", marks=pytest.mark.slow),
    ],
)
def test_a_family_passes(name: str, family: str, numerics: Numerics) -> None:
    task = content.load_task(name, Path.cwd())
    checked = numerics.check(task, (KERNELS / name / f"{family}.py").read_text(), {}, 0, product("h200"))
    assert not checked.unavailable
    assert not any(checked.findings.values())
    assert len(checked.graded) == len(problems(task))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), [("msa_decode", SPLIT_K), ("msa_decode_e4m3", E4M3)])
def test_fewer_launches_that_begin_early_pass_as_well(name: str, source: str, numerics: Numerics) -> None:
    task = content.load_task(name, Path.cwd())
    checked = numerics.check(task, source, {"PDL": 1, "LAST": 1}, 0, product("h200"))
    assert not checked.unavailable
    assert not any(checked.findings.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, numerics: Numerics) -> None:
    problem, old, new = MUTANTS[name]
    assert old in SPLIT_K, f"no place for {old!r}"
    task = content.load_task("msa_decode", Path.cwd())
    (shown,) = (p for p in problems(task) if f"{p.shape.name} {p.family}" == problem)
    checked = numerics.check(task, SPLIT_K.replace(old, new), {}, 0, product("h200"), [shown])
    assert any(checked.findings.values())


def test_the_e4m3_family_is_the_other_one_widened_and_scaled() -> None:
    """But for its docstring and `halves`, which takes queries to where keys are taken."""
    lines = E4M3.replace("msa_decode_e4m3", "msa_decode").splitlines()
    tree = ast.parse(E4M3)
    own = [tree.body[0], next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "halves")]
    new = {number for node in own for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    shared = {line for number, line in enumerate(lines, 1) if number not in new}
    rest = {line for line in shared if not any(word in line for word in ("float16", "scale", "halves"))}
    assert rest <= set(SPLIT_K.splitlines())
