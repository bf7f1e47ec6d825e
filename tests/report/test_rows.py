"""From a run to rows: best so far, landmarks, failures by cause, and never modelled beside measured."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made

from kopt.records import Evidence, Status
from kopt.report.rows import LANDMARKS, MILESTONE_GAIN, Rows, rows


def shown(workspace: Path, made: list[Made], **over: object) -> Rows:
    return rows(m.load(m.write(workspace, made, **over)))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
def test_best_so_far_is_the_running_maximum(workspace: Path, seed: int) -> None:
    made = m.climb(60, seed)
    best = 0.0
    for row, one in zip(shown(workspace, made).submissions, made, strict=True):
        if one.score is not None:
            assert row.improved == (one.score > best)
            best = max(best, one.score)
        assert row.best == best


@pytest.mark.parametrize("seed", range(6))
def test_landmarks_climb_from_the_first_score_to_the_best(workspace: Path, seed: int) -> None:
    found = shown(workspace, m.climb(80, seed))
    assert found.first is not None
    assert found.best is not None
    marks = found.landmarks
    assert 2 <= len(marks) <= LANDMARKS
    assert (marks[0].n, marks[-1].n) == (found.first.n, found.best.n)
    assert [mark.n for mark in marks] == sorted({mark.n for mark in marks})
    for before, after in pairwise(marks[:-1]):
        assert after.score >= before.score * (1 + MILESTONE_GAIN)
        assert after.factor == pytest.approx(after.score / before.score)


def test_small_steps_are_no_landmarks_but_the_best_one_is(workspace: Path) -> None:
    found = shown(workspace, [Made(0.5 + 0.001 * i, note=f"step {i}") for i in range(10)])
    assert [mark.n for mark in found.landmarks] == [1, 10]


def test_a_landmark_is_called_by_the_first_clause_of_its_note(workspace: Path) -> None:
    made = [Made(0.2, note="", origin="model:x"), Made(0.4, note="TMA: why"), Made(0.6, parameters={"BLOCK_M": 64})]
    assert [mark.label for mark in shown(workspace, made).landmarks] == ["model:x", "TMA", "TMA descriptors, tuned"]


def test_a_measured_score_is_never_compared_with_a_modelled_one(workspace: Path) -> None:
    made = [Made(0.9), Made(0.4, evidence=Evidence.MEASURED), Made(0.95), Made(0.5, evidence=Evidence.MEASURED)]
    found = shown(workspace, made)
    assert found.evidence == "measured"
    assert [row.best for row in found.submissions] == [None, 0.4, 0.4, 0.5]
    assert found.first is not None
    assert found.first.n == 2
    assert found.factor == pytest.approx(1.25)
    assert [row.n for row in found.top()] == [4, 2, 3, 1]


def test_failures_are_grouped_by_rule_the_most_frequent_first(workspace: Path) -> None:
    made = [Made(status=Status.WRONG)] + [Made(status=Status.REJECTED)] * 3 + [Made(0.3)]
    found = shown(workspace, made).failures
    assert [(f.status, f.cause, f.submissions) for f in found] == [
        ("rejected", "provenance.mma", (2, 3, 4)),
        ("wrong", "numerics.bound", (1,)),
    ]


@pytest.mark.parametrize(
    "made",
    [[], [Made(status=Status.CRASHED)], [Made(0.3)], [Made(finished=False)], [Made(0.0), Made(0.2)]],
    ids=["nothing", "only a failure", "one", "one in flight", "a score of zero"],
)
def test_every_run_has_rows_and_they_are_json(workspace: Path, made: list[Made]) -> None:
    found = shown(workspace, made)
    whole = json.loads(json.dumps(found.as_json()))
    assert len(whole["submissions"]) == len(made)
    assert sum(whole["statuses"].values()) == len(made)


def test_a_run_without_an_end_is_not_called_stopped(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)], stop=None)
    assert rows(m.load(folder)).stopped == ""
    with m.Journal(folder / m.FILE) as log:
        log.append("stopped", reason="enough")
    assert rows(m.load(folder)).stopped == "enough"
    with m.Journal(folder / m.FILE) as log:
        log.append("started")
    assert rows(m.load(folder)).stopped == ""


def test_events_of_a_newer_version_are_counted_and_break_nothing(workspace: Path) -> None:
    found = shown(workspace, [Made(0.3)], extra=[{"type": "hologram", "beam": 1}, {"type": "hologram", "beam": 2}])
    assert found.unknown == {"hologram": 2}
    assert found.best is not None


def test_a_target_this_version_does_not_know_still_has_rows(workspace: Path) -> None:
    found = shown(workspace, [Made(0.3)], target="z900")
    assert (found.target_name, found.reference) == ("z900", None)


@pytest.mark.parametrize(
    ("over", "there"),
    [({}, True), ({"target": "h20"}, True), ({"target": "b200"}, False), ({"task": "msa_prefill"}, False),
     ({"metric": "roofline"}, False)],
)  # fmt: skip
def test_the_published_result_stands_beside_fp8_gemm_on_hopper_only(
    workspace: Path, over: dict[str, str], there: bool
) -> None:
    reference = shown(workspace, [Made(0.3)], **over).reference
    assert (reference is not None and reference.score == 0.713) if there else reference is None
