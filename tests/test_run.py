"""State is the replay of the journal, and nothing else."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_runs import Made, climb, load, meta, write

from kopt.errors import HarnessError, UsageError
from kopt.journal import FILE, read
from kopt.meta import create, create_unnamed, read_meta
from kopt.records import Evidence, Status
from kopt.run import Run


def test_best_so_far_rises_only(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1), Made(0.3), Made(0.2), Made(status=Status.WRONG), Made(0.4)]))
    assert [(e.n, e.score) for e in run.best] == [(1, 0.1), (2, 0.3), (5, 0.4)]
    assert run.incumbent is run.entries[5]


def test_measured_beats_modelled_whatever_the_number(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.9), Made(0.2, evidence=Evidence.MEASURED), Made(0.95)]))
    assert run.incumbent is not None
    assert run.incumbent.n == 2


def test_everything_tried_is_charged_failed_or_not(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1, trials=(0.1, 0.2)), Made(status=Status.CRASHED), Made(finished=False)]))
    assert (run.charges.submissions, run.charges.trials) == (3, 2)


def test_a_submission_without_a_verdict_is_pending(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1), Made(finished=False)], stop=None))
    assert run.pending is run.entries[2]
    assert load(write(tmp_path, [Made(0.1)], id="other")).pending is None


def test_whoever_looks_through_a_run_is_not_disturbed_by_what_is_added_meanwhile(tmp_path: Path) -> None:
    folder = write(tmp_path, climb(3))
    run, seen = Run(folder, read_meta(folder)), []
    for event in read(folder / FILE):
        looking = iter(run)
        run.apply(event)
        seen.append([entry.n for entry in looking])
    assert seen[-1] == [1, 2, 3]


def test_verdicts_and_trials_come_back_whole(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1, trials=(0.3,)), Made(status=Status.WRONG)]))
    verdict = run.verdict(2)
    assert verdict is not None
    assert verdict.reason == run.entries[2].reason != ""
    assert run.trial(1, 1).score == 0.3
    assert run.verdict(1).score == 0.1  # type: ignore[union-attr]


def test_every_prefix_of_a_journal_replays(tmp_path: Path) -> None:
    """A process may die after any event."""
    folder = write(tmp_path, climb(12))
    lines = (folder / FILE).read_bytes().splitlines(keepends=True)
    for end in range(len(lines) + 1):
        (folder / FILE).write_bytes(b"".join(lines[:end]))
        run = Run.load(folder)
        assert run.charges.submissions == len(run.entries)
        assert sum(1 for e in run if e.status is None) == (run.pending is not None)


def test_an_event_of_a_newer_version_is_counted_and_harmless(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1)], extra=[{"type": "telepathy", "depth": 3}]))
    assert run.unknown == {"telepathy": 1}
    assert run.incumbent is not None


NEWER: list[dict[str, object]] = [
    {"type": "verdict", "verdict": {"submission": 99}},
    {"type": "verdict", "verdict": {"submission": 1, "status": "superseded", "evaluator": 9, "score": 0.9}},
    {"type": "verdict", "verdict": {"submission": 1, "status": "passed", "evaluator": 9, "evidence": "dreamt"}},
    {"type": "verdict", "judgement": []},
    {"type": "proposed", "submission": {"number": 2}},
    {"type": "proposed", "submission": None},
    {"type": "trial", "trial": {"submission": 1, "point": {}}},
    {"type": "trial", "trial": {"submission": 1, "n": 1, "parameters": {}, "status": "passed"}, "wall": "long"},
    {"type": "contest", "contest": {"submission": 1}},
    {"type": "finale", "finale": {"winner": 7}},
    {"type": "charge", "dollars": "many"},
    {"type": "tool", "tool": "read"},
    {"type": "reply", "model": ["a"]},
    {"type": "lesson", "words": "x"},
    {"type": "stopped", "why": "x"},
]


@pytest.mark.parametrize("event", NEWER, ids=lambda event: str(event)[:60])
def test_a_known_event_that_another_version_wrote_is_left_out_whole_and_ends_no_replay(
    tmp_path: Path, event: dict[str, object]
) -> None:
    folder = write(tmp_path, [Made(0.1)], stop=None, extra=[event])
    run, plain = load(folder), Run(folder, read_meta(folder))
    for known in list(read(folder / FILE))[:-1]:
        assert plain.apply(known)
    assert run.unread == {4: event["type"]}
    for name in ("entries", "best", "top", "contests", "finale", "lessons", "errors", "ended"):
        assert getattr(run, name) == getattr(plain, name), name
    for name in ("usage", "tools", "replies", "refused", "notices"):
        assert getattr(run.dialogue, name) == getattr(plain.dialogue, name), name
    assert run.charges == plain.charges.model_copy(update={"seconds": run.charges.seconds})
    with pytest.raises(HarnessError, match=rf"event 4 \({event['type']}\).*only the version that wrote it"):
        run.ready()
    plain.ready()


def test_a_submission_that_is_not_there_is_refused_with_the_range(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no submission 7; it has 1 to 2"):
        load(write(tmp_path, [Made(0.1), Made(0.2)])).entry(7)


def test_a_run_is_not_made_over_another(tmp_path: Path) -> None:
    create(tmp_path / "run", meta())
    with pytest.raises(UsageError, match="exists; give the run another name"):
        create(tmp_path / "run", meta())


def test_runs_without_a_name_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def start(number: int) -> str:
        together.wait()
        return create_unnamed(tmp_path, meta("axpy-20260101-000000", seed=number)).id

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(start, range(4)))
    assert sorted(made) == ["axpy-20260101-000000", *(f"axpy-20260101-000000-{n}" for n in (2, 3, 4))]
    assert [(found.id, found.seed) for found in map(read_meta, map(tmp_path.joinpath, made))] == list(
        zip(made, range(4), strict=True)
    )


def test_a_folder_without_run_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run: it has no run\.json"):
        read_meta(tmp_path)


@pytest.mark.parametrize(("change", "message"), [({"seed": "x"}, "seed: "), ({"target": None}, "target: ")])
def test_a_broken_run_json_names_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = write(tmp_path, [])
    raw = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(HarnessError, match=message):
        read_meta(folder)


def test_sources_stay_out_of_the_journal(tmp_path: Path) -> None:
    run = load(write(tmp_path, [Made(0.1)]))
    assert "def fp8_gemm" in run.source(1)
    assert "def fp8_gemm" not in (run.folder / FILE).read_text()
