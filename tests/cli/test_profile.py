"""A submission's profile is read from its run, so it needs neither torch nor a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from quick import FACTS, TOOLCHAIN

from kopt.journal import FILE, Journal
from kopt.meta import Meta, create, write_whole
from kopt.records import Evidence, Outcome, Prediction, StageResult, Status, Submission, Verdict, digest

SOURCE = "def axpy(x, y, out):\n    return None\n"


def made(root: Path) -> None:
    folder = root / "submissions" / "made"
    create(folder, Meta(
        id="made", created=1.0, kopt="0", evaluator=1, task="axpy", task_sha="x", target="h200", proposer="search",
        seed=0, budget={}, toolchain=TOOLCHAIN,
    ))  # type: ignore[arg-type]  # fmt: skip
    submission = Submission(n=1, sha=digest(SOURCE), origin="search")
    write_whole(folder / "sources" / submission.file, SOURCE)
    verdict = Verdict(
        submission=1, sha=submission.sha, status=Status.PASSED, score=0.5, evidence=Evidence.MODELLED,
        stages=(StageResult(stage="trace", outcome=Outcome.PASSED, facts=FACTS),),
        predictions=(Prediction(shape="1m", us=12.5, terms={"hbm": 11.0, "issue": 4.0}, bound="hbm"),),
        target="h200", toolchain=TOOLCHAIN, evaluator=1,
    )  # fmt: skip
    with Journal(folder / FILE) as log:
        log.append("proposed", submission=submission.model_dump(mode="json"))
        log.append("verdict", verdict=verdict.model_dump(mode="json"))


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kopt", "--workspace", str(root), "profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_terms_and_facts_are_shown(tmp_path: Path) -> None:
    made(tmp_path)
    done = run(tmp_path, "made/best")
    assert done.returncode == 0, done.stderr
    assert "1m: 12.5 us: hbm 11.0, issue 4.0" in done.stdout
    assert "axpy_kernel" in done.stdout
    assert "registers 26" in done.stdout
    found = json.loads(run(tmp_path, "made/1", "--json").stdout)
    assert found["kernels"]["k1"]["registers"] == 26
    assert found["predictions"][0]["bound"] == "hbm"


def test_a_submission_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    made(tmp_path)
    done = run(tmp_path, "made/7")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
