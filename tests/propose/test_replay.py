"""A past run is judged again by today's evaluator."""

from __future__ import annotations

from pathlib import Path

from quick import kernel, session

from kopt.loop import drive
from kopt.propose.replay import Replay, changes, told
from kopt.run import Run


def test_every_submission_is_judged_again_with_its_note_parameters_and_parent(tmp_path: Path) -> None:
    with session(tmp_path) as old:
        old.submit(kernel(0.3), note="first", origin="search")
        old.submit(kernel(None), note="broken", origin="search", parent=1)
        old.submit(kernel(0.3), note="tuned", origin="search", parent=1, parameters={"BLOCK": 512})
    with session(tmp_path, id="axpy-2", proposer="replay:axpy-1") as new:
        drive(new, Replay(Run.load(tmp_path / "submissions" / "axpy-1")))
        again = new.run
    assert [(e.submission.note, e.submission.parent, dict(e.submission.parameters)) for e in again] == [
        ("first", None, {}), ("broken", 1, {}), ("tuned", 1, {"BLOCK": 512}),
    ]  # fmt: skip
    assert again.entries[2].submission.origin == "replay:axpy-1/2"
    assert not any(change.differs for change in changes(old.run, again))


def test_what_changed_is_shown(tmp_path: Path) -> None:
    with session(tmp_path) as old:
        old.submit(kernel(0.3), note="first", origin="search")
        # A verdict of a time when the evaluator thought better of it.
        old.run.entries[1].score = 0.5
    with session(tmp_path, id="axpy-2") as new:
        drive(new, Replay(old.run))
    (change,) = changes(old.run, new.run)
    assert (change.differs, change.score_was, change.score_now) == (True, 0.5, 0.3)
    assert list(told(old.run, [change])) == [
        "1 submissions of axpy-1 judged again: 1 differ", "  1: 50.00% -> 30.00%: first",
    ]  # fmt: skip
