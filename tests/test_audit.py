"""Every cheat of the corpus that needs no GPU is rejected for the right reason, every honest kernel accepted.

The static policy is switched off for attacks that run. `kopt audit` runs the rest: what has to be compiled and
interpreted takes longer, and .ci/run waits for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.audit import Audit, Item, Result, corpus, score
from kopt.errors import UsageError

ATTACKS = Path(__file__).parent / "attacks"
ROOT = Path(__file__).parents[1]
ITEMS, _ = corpus(ATTACKS)
QUICK = [i for i in ITEMS if i.stage in ("policy", "measure") and not i.needs]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge is for Linux")


@pytest.fixture(scope="module")
def audit() -> Iterator[Audit]:
    with Audit(ATTACKS, ROOT, "cpu") as audit:
        yield audit


@pytest.mark.parametrize("item", [i for i in QUICK if i.kind == "guilty"], ids=lambda i: i.path.stem)
def test_cheats_are_rejected_for_the_right_reason(audit: Audit, item: Item) -> None:
    (result,) = audit.run([item])
    assert result.right, result.finding


@pytest.mark.parametrize("item", [i for i in QUICK if i.kind == "honest"], ids=lambda i: i.path.stem)
def test_honest_kernels_with_unusual_habits_are_accepted(audit: Audit, item: Item) -> None:
    (result,) = audit.run([item])
    assert result.right, result.finding
    assert result.policy == ""


@pytest.mark.parametrize("item", [i for i in QUICK if i.kind == "harmless"], ids=lambda i: i.path.stem)
def test_attacks_that_change_nothing_are_measured_at_their_true_time(audit: Audit, item: Item) -> None:
    (result,) = audit.run([item])
    assert item.at_least_us > 0
    assert result.right, result.finding


def test_every_file_of_the_corpus_is_in_its_index_and_every_cheat_in_the_readme() -> None:
    listed = {i.path.resolve() for i in ITEMS}
    assert {p.resolve() for p in ATTACKS.glob("*/*.py")} <= listed
    readme = (ATTACKS / "README.md").read_text()
    for item in ITEMS:
        if item.kind != "honest":
            assert re.search(rf"\b{item.cheat}\b", readme), item.file
            assert item.expect or item.kind == "harmless"


def test_every_cheat_is_told_by_rules_and_none_by_a_status_or_a_whole_stage() -> None:
    # A rule has a stage before its dot. "crashed" or "judge" would be right for a kernel that fails by accident, too.
    for item in ITEMS:
        if item.kind == "guilty":
            words = item.expect.split(",")
            assert all(re.fullmatch(r"[a-z]+\.[a-z]+", word) for word in words), f"{item.file}: {item.expect}"


def test_a_call_that_raised_has_to_have_raised_what_was_expected() -> None:
    for item in ITEMS:
        assert item.says or "judge.call" not in item.expect, item.file


def test_honest_files_keep_the_contract_by_their_text_too() -> None:
    from kopt.evaluate.policy import check

    for item in ITEMS:
        if item.kind == "honest" and item.stage != "measure":
            task = content.load_task(item.task, ROOT)
            assert not [f for f in check(item.path.read_text(), task.entry, len(task.tensors)) if f.status], item.file


def test_a_cheat_that_passes_or_fails_for_another_reason_counts_as_missed(tmp_path: Path, audit: Audit) -> None:
    honest = next(i for i in QUICK if i.kind == "honest")
    zeros = next(i for i in QUICK if i.path.stem == "F10_zeros")
    crimes = [
        honest.model_copy(update={"kind": "guilty", "expect": "wrong"}),
        zeros.model_copy(update={"expect": "judge.late"}),
        zeros.model_copy(update={"says": "Permission denied"}),
        zeros.model_copy(update={"kind": "honest", "expect": ""}),
        honest.model_copy(update={"kind": "harmless", "at_least_us": 1e9}),
    ]
    results = audit.run(crimes)
    assert [r.right for r in results] == [False] * 5
    assert score(results) == "rejects 0 of 3, accepts 0 of 1, gives no gain to 0 of 1"


def test_what_needs_a_gpu_is_left_out_and_not_counted(audit: Audit) -> None:
    needy = [i for i in ITEMS if i.needs == "gpu"]
    assert needy
    assert audit.run(needy) == []
    assert score([Result(i, True, "", "", "", 0.0) for i in needy[:1]]) == "rejects 1 of 1, accepts 0 of 0"


def test_judges_of_two_tasks_do_not_meet_on_one_device() -> None:
    plain = next(i for i in QUICK if i.path.stem == "plain")
    with Audit(ATTACKS, ROOT, "cpu", "audited-alone") as alone:
        results = alone.run([plain, plain.model_copy(update={"task": "no_baseline"}), plain])
    assert [r.right for r in results] == [True] * 3, results


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no corpus\.toml"):
        corpus(tmp_path)
    (tmp_path / "corpus.toml").write_text('[[guilty]]\nfile = "x.py"\n')
    with pytest.raises(UsageError, match="guilty 1: there is no file"):
        corpus(tmp_path)
    (tmp_path / "corpus.toml").write_text('[[guilty]]\nfile = "x.py"\nstgae = "trace"\n')
    with pytest.raises(UsageError, match="guilty 1: stgae: unknown key"):
        corpus(tmp_path)
    (tmp_path / "x.py").touch()
    (tmp_path / "corpus.toml").write_text('[[guilty]]\nfile = "x.py"\nsays = "["\n')
    with pytest.raises(UsageError, match=r"guilty 1: says: .*no regular expression"):
        corpus(tmp_path)


def test_the_command_prints_the_score_and_the_stage_of_each(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kopt", "--workspace", str(tmp_path), "audit"]
    wanted = ["--cpu", "--only", "F10_", "--stage", "measure"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "rejects 2 of 2, accepts 0 of 0"
    assert all(re.match(r"rejected +F10 +F10_\w+ +measure +numerics\.", line) for line in lines)
