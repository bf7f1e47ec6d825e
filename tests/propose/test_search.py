"""The embedded search: every family first, then trials where the gain is; a crash after any event changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from quick import kernel, session, task

from kopt import content
from kopt.budget import Budget
from kopt.errors import DeviceTaken
from kopt.journal import FILE, read
from kopt.loop import drive
from kopt.propose.search import Family, Search, ladder
from kopt.records import Submission
from kopt.run import Run
from kopt.source import parse

ROOT = Path(__file__).parents[2]
TUNE = 'TUNE = {"BLOCK": [64, 128, 256, 512, 1024, 2048], "WARPS": [1, 2, 4]}\n'


def family(name: str, score: float | None, tune: str = TUNE) -> Family:
    text = kernel(score, tune=tune).replace("BLOCK=256", "BLOCK=256, WARPS=4")
    return Family(name, parse(text.replace("A kernel.", f"{name} in a sentence."), "axpy"))


FAMILIES = [family("slow", 0.1), family("wrong", None), family("fast", 0.5), family("fixed", 0.2, tune="")]


def run_in(folder: Path, *, trials: int = 20, seed: int = 0) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    with session(folder, budget=Budget(submissions=12, trials=trials), proposer="search", seed=seed) as live:
        drive(live, Search(FAMILIES))
        return live.run


def test_what_ends_a_run_is_in_its_journal_and_the_submission_waits_for_a_resume(tmp_path: Path) -> None:
    def taken(submission: Submission) -> None:
        raise DeviceTaken("the GPU is busy")

    with session(tmp_path, proposer="search", on_judge=taken) as live, pytest.raises(DeviceTaken):
        drive(live, Search(FAMILIES))
    with session(tmp_path, budget=Budget(submissions=2), proposer="search") as live:
        assert live.run.errors == ["the GPU is busy"]
        assert live.run.pending is not None
        drive(live, Search(FAMILIES))
        assert live.run.verdict(1) is not None


def said(run: Run) -> list[Any]:
    """Shas and parameters of all that was tried, in order."""
    shown = []
    for event in read(run.folder / FILE):
        if event.type == "proposed":
            shown.append(event.payload["submission"]["sha"])
        elif event.type == "trial":
            shown.append((event.payload["trial"]["submission"], event.payload["trial"]["parameters"]))
    return shown


def test_every_family_is_visited_before_any_is_tuned_and_trials_go_where_the_gain_is(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert [entry.submission.note for entry in run][:4] == [f"{f.name} in a sentence." for f in FAMILIES]
    tried = [len(run.entries[n].trials) for n in (1, 2, 3, 4)]
    assert tried[2] > tried[0]
    assert (tried[1], tried[3]) == (0, 0)
    assert run.incumbent is not None
    assert run.incumbent.submission.parent == 3


def test_no_point_is_tried_twice(tmp_path: Path) -> None:
    run = run_in(tmp_path, trials=40)
    for entry in run:
        points = [tuple(sorted(row.parameters.items())) for row in entry.trials]
        assert len(points) == len(set(points))


def test_the_same_seed_searches_the_same_way_and_another_does_not(tmp_path: Path) -> None:
    same = [said(run_in(tmp_path / name)) for name in ("a", "b")]
    assert same[0] == same[1]
    assert said(run_in(tmp_path / "c", seed=7)) != same[0]


def test_a_run_that_died_after_any_of_its_events_ends_as_if_it_had_not(tmp_path: Path) -> None:
    whole = run_in(tmp_path / "whole", trials=12)
    lines = (whole.folder / FILE).read_bytes().splitlines(keepends=True)
    kinds = [event.type for event in read(whole.folder / FILE)]
    assert {"started", "proposed", "verdict", "trial", "stopped"} <= set(kinds)
    for i in range(1, len(lines)):
        folder = tmp_path / str(i)
        died = folder / "submissions" / "axpy-1"
        (died / "sources").mkdir(parents=True)
        (died / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
        for source in (whole.folder / "sources").iterdir():
            (died / "sources" / source.name).write_bytes(source.read_bytes())
        # Half of the next event was on its way to the disk.
        (died / FILE).write_bytes(b"".join(lines[:i]) + lines[i][: len(lines[i]) // 2])
        again = run_in(folder, trials=12)
        assert said(again) == said(whole), f"after event {i} ({kinds[i - 1]})"
        assert again.charges.submissions == whole.charges.submissions
        assert again.charges.trials == whole.charges.trials


def test_a_family_for_other_architectures_is_left_out() -> None:
    def names(arch: int) -> set[str]:
        return {f.name for f in ladder(content.load_task("fp8_gemm", ROOT), ROOT, arch=arch)}

    assert names(90) - names(120) == {"gluon_ws"}


def test_without_families_the_skeleton_shows_what_the_first_one_has_to_get_right(tmp_path: Path) -> None:
    assert [f.name for f in ladder(task(), tmp_path, arch=90)] == ["skeleton"]
