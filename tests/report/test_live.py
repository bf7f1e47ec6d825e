"""Watching a run: a view that redraws itself, plain lines elsewhere; neither ever stops the run."""

from __future__ import annotations

import io
import os
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made
from rich.console import Console

from kopt.journal import FILE, read
from kopt.meta import read_meta
from kopt.records import Status
from kopt.report import live
from kopt.run import Run


def replay(folder: Path, observer: live.LiveObserver) -> None:
    """Every event of a run, given to an observer as a session would."""
    run = Run(folder, read_meta(folder))
    for event in read(folder / FILE):
        run.apply(event)
        observer.on_event(event, run)
        if event.type == "proposed":
            observer.on_stage(event.payload["submission"]["n"], "numerics", None)


MADE = [Made(0.2, trials=[0.25, 0.3]), Made(status=Status.WRONG), Made(0.5, note="\x1b[31mTMA[b]: x"),
        Made(0.4, finished=False)]  # fmt: skip


def test_without_a_terminal_every_verdict_and_trial_is_one_plain_line(workspace: Path) -> None:
    out = io.StringIO()
    with live.observer(Console(file=out, width=200)) as observer:
        assert isinstance(observer, live.Lines)
        replay(m.write(workspace, MADE), observer)
    lines = out.getvalue().splitlines()
    assert len(lines) == 6, out.getvalue()
    assert "#1 trial 1 passed  modelled 25.0 %  BLOCK_M=64" in lines[0]
    assert "#2 wrong  ragged (17, 63): element (17, 63) is off" in lines[3]
    assert "#3 passed  modelled 50.0 % of peak  new best  ␛[31mTMA[b]" in lines[4]
    assert "stopped: the budget of 40 submissions is spent" in lines[5]
    assert "\x1b" not in out.getvalue()


def test_in_a_terminal_the_view_shows_progress_incumbent_and_what_is_tried(workspace: Path) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, highlight=False)
    view = live.observer(console)
    assert isinstance(view, live.View)
    replay(m.write(workspace, MADE, stop=None), view)
    still = Console(file=io.StringIO(), width=120)
    still.print(view)
    text = still.file.getvalue()  # type: ignore[attr-defined]
    for words in ("fp8_gemm on h200", "4 of 40", "2 of 36", "modelled 50.0 % of peak", "#4 numerics", "▄ █"):
        assert words in text, text


def test_a_resumed_run_shows_the_scores_from_before(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.1), Made(0.2), Made(0.4)])
    run = m.load(folder)
    last = [event for event in read(folder / FILE) if event.type == "verdict"][-1]
    view = live.View(Console(file=io.StringIO(), force_terminal=True), None)
    view.on_event(last, run)
    assert view._scores == [0.1, 0.2, 0.4]


def test_events_of_a_newer_version_are_named(workspace: Path) -> None:
    out = io.StringIO()
    replay(m.write(workspace, [], extra=[{"type": "hologram"}]), live.Lines(Console(file=out, width=200)))
    assert "event 'hologram', which this version of kopt does not know" in out.getvalue()


def test_a_reader_that_left_does_not_stop_the_run(workspace: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        replay(m.write(workspace, MADE), live.Lines(Console(file=pipe, width=200)))
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, writing)
