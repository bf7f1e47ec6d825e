"""Runs found by name, and summed up line by line exactly as the replay would."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made

from kopt import runs, submit
from kopt.errors import HarnessError, UsageError
from kopt.journal import FILE, Journal
from kopt.meta import create_unnamed
from kopt.records import Evidence, Status
from kopt.run import Run
from kopt.runs import Summary, resolve, split, summaries


def agree(row: Summary, folder: Path) -> None:
    run = m.load(folder)
    best = run.incumbent
    assert row.submissions == len(run.entries)
    assert row.trials == run.charges.trials
    assert row.passed == run.statuses[Status.PASSED]
    assert row.seconds == pytest.approx(run.charges.seconds)
    assert (row.best, row.best_n, row.evidence) == ((best.score, best.n, best.evidence) if best else (None, None, None))


@pytest.mark.parametrize(
    "made",
    [
        m.climb(40, 1),
        [],
        [Made(0.9), Made(0.2, evidence=Evidence.MEASURED), Made(0.95)],
        [Made(0.3, trials=[0.2, 0.4]), Made(finished=False)],
    ],
    ids=["a climb", "nothing", "measured beats modelled", "trials and one in flight"],
)
def test_a_row_says_what_the_replay_says(workspace: Path, made: list[Made]) -> None:
    folder = m.write(workspace, made)
    agree(summaries(workspace)[0], folder)


def test_a_journal_that_grew_is_read_on_from_where_it_was(workspace: Path) -> None:
    folder = m.write(workspace, m.climb(10, 1), stop=None)
    first = summaries(workspace)[0]
    assert first.state == "interrupted"
    with Journal(folder / FILE) as log:
        log.append("started")
        log.append("stopped", reason="enough")
    second = summaries(workspace)[0]
    assert (second.state, second.reason, second.lines) == ("stopped", "enough", first.lines + 2)
    agree(second, folder)


def test_the_cache_is_only_a_shortcut(workspace: Path) -> None:
    folder = m.write(workspace, m.climb(10, 1))
    fresh = summaries(workspace)
    cache = next((Path(os.environ["XDG_CACHE_HOME"]) / "kopt").glob("runs-*.json"))
    assert summaries(workspace) == fresh
    for broken in ("", "[]", '{"version": 1, "rows": [{"id": 3}]}', '{"version": 0, "rows": []}'):
        cache.write_text(broken)
        assert summaries(workspace) == fresh
    # A run of the same name that was made anew is not taken for the old one.
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    agree(
        summaries(workspace)[0] if summaries(workspace) else _again(workspace), workspace / "submissions" / folder.name
    )


def _again(workspace: Path) -> Summary:
    m.write(workspace, [Made(0.1)], created=1.0)
    return summaries(workspace)[0]


def test_a_run_being_written_is_live(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.1)], stop=None)
    with Journal(folder / FILE):
        assert summaries(workspace)[0].state == "live"
        assert runs.is_live(folder)
    assert summaries(workspace)[0].state == "interrupted"
    assert not runs.is_live(folder)


def test_a_torn_last_line_is_not_counted_and_a_broken_one_is_named(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.1)], stop=None)
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole + b'{"seq":4,"time":1.0,"ela')
    assert (summaries(workspace)[0].state, summaries(workspace)[0].submissions) == ("interrupted", 1)
    lines = whole.splitlines(keepends=True)
    (folder / FILE).write_bytes(lines[0] + b"garbage\n" + lines[2])
    row = summaries(workspace)[0]
    assert row.state == "broken"
    assert "journal.jsonl line 2" in row.reason


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_run_without_a_sound_description_is_a_row_that_says_so(workspace: Path, text: str) -> None:
    good = m.write(workspace, [Made(0.1)])
    bad = workspace / "submissions" / "bad"
    bad.mkdir()
    (bad / "run.json").write_text(text)
    rows = {row.id: row for row in summaries(workspace)}
    assert rows["bad"].state == "broken"
    assert "run.json" in rows["bad"].reason
    assert rows[good.name].state == "stopped"


def test_event_types_with_strange_characters_are_read_past(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.1)], extra=[{"type": '\x1b"odd\\'}, {"type": "größer"}])
    agree(summaries(workspace)[0], folder)


def test_runs_come_newest_first_whatever_their_files_say(workspace: Path) -> None:
    for name, created in (("b", 30.0), ("c", 10.0), ("a", 20.0)):
        m.write(workspace, [], id=name, created=created)
    os.utime(workspace / "submissions" / "c" / "run.json")
    assert runs.names(workspace) == ["b", "a", "c"]
    assert [row.id for row in summaries(workspace)] == ["b", "a", "c"]
    assert resolve("last", workspace).name == "b"


def test_a_run_goes_by_id_unique_prefix_last_or_path(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "alpine", "al"):
        m.write(workspace, [], id=name)
    assert resolve("alph", workspace).name == "alpha"
    assert resolve("al", workspace).name == "al"
    monkeypatch.chdir(workspace)
    assert resolve("submissions/alpha", workspace).name == "alpha"


@pytest.mark.parametrize(
    ("reference", "words"),
    [("alp", "ambiguous: alp"), ("zzz", "no run 'zzz' in .*kopt runs lists"), ("", "an empty run name"),
     ("../alpha", "no run"), ("/etc", "no run")],
)  # fmt: skip
def test_what_fits_no_run_or_several_is_one_clear_line(workspace: Path, reference: str, words: str) -> None:
    for name in ("alpha", "alpine"):
        m.write(workspace, [], id=name)
    with pytest.raises(UsageError, match=words) as caught:
        resolve(reference, workspace)
    assert "\n" not in str(caught.value)


def test_without_any_run_the_mend_is_to_start_one(workspace: Path) -> None:
    assert summaries(workspace) == []
    with pytest.raises(UsageError, match="kopt run TASK starts one"):
        resolve("last", workspace)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("run/3", ("run", "3")), ("run", ("run", "")), ("run/best", ("run", "best")), ("last/last", ("last", "last")),
     ("a/b/12", ("a/b", "12")), ("run/", ("run", "")), ("a/b", ("a/b", ""))],
)  # fmt: skip
def test_a_submission_is_named_by_run_and_number(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts


def test_best_and_last_stand_for_numbers(workspace: Path) -> None:
    run = m.load(m.write(workspace, [Made(0.1), Made(0.5), Made(0.2)]))
    assert (runs.number(run, "best"), runs.number(run, "last"), runs.number(run, "1")) == (2, 3, 1)
    with pytest.raises(UsageError, match="has no submission 9; it has 1 to 3"):
        runs.number(run, "9")
    empty = m.load(m.write(workspace, [], id="empty"))
    for word in ("best", "last", "0"):
        with pytest.raises(UsageError):
            runs.number(empty, word)


def test_rows_are_json(workspace: Path) -> None:
    m.write(workspace, [Made(0.1)])
    row = json.loads(json.dumps(summaries(workspace)[0].as_json()))
    assert row["best"] == 0.1
    assert row["folder"].endswith(row["id"])


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"created": 1e300}', '{"created": NaN}', '{"created": "x"}'])
def test_one_unreadable_run_is_a_row_and_the_others_are_found(workspace: Path, text: str) -> None:
    m.write(workspace, m.climb(3, 1), id="good")
    bad = m.write(workspace, m.climb(3, 1), id="bad")
    (bad / "run.json").write_text(text)
    assert [(row.id, row.state) for row in summaries(workspace)] == [("good", "stopped"), ("bad", "broken")]
    assert resolve("last", workspace).name == "good"
    with pytest.raises(HarnessError, match=r"run\.json") as caught:
        Run.load(bad)
    assert "\n" not in str(caught.value)


def test_last_is_the_newest_whatever_another_is_called(workspace: Path) -> None:
    m.write(workspace, [], id="last", created=1e9)
    m.write(workspace, [], id="newer", created=2e9)
    assert resolve("last", workspace).name == "newer"


def test_a_source_that_is_no_text_is_one_line(workspace: Path) -> None:
    folder = m.write(workspace, m.climb(1, 1))
    next((folder / "sources").iterdir()).write_bytes(b"\xff")
    with pytest.raises(HarnessError, match="not UTF-8 text"):
        Run.load(folder).source(1)


def test_a_run_that_cannot_be_begun_leaves_no_folder(
    workspace: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    meta = m.load(m.write(workspace, [])).meta
    there = sorted((workspace / "submissions").rglob("*"))
    with pytest.raises(HarnessError, match=r"cannot create .*: File too large"), full_disk():
        create_unnamed(workspace / "submissions", meta)
    assert sorted((workspace / "submissions").rglob("*")) == there


@pytest.mark.parametrize(("made", "stays"), [([], False), ([Made(0.5)], True)])
def test_a_new_run_stays_once_something_was_recorded_in_it(workspace: Path, made: list[Made], stays: bool) -> None:
    folder = m.write(workspace, made)
    with pytest.raises(HarnessError), submit._kept(folder, new=True):
        raise HarnessError("the disk is full")
    assert folder.exists() == stays


def test_a_number_of_too_many_digits_is_no_submission(workspace: Path) -> None:
    run = m.load(m.write(workspace, [Made(0.5)]))
    with pytest.raises(UsageError, match="has no submission of 5000 digits; it has 1 to 1"):
        runs.number(run, "9" * 5000)
