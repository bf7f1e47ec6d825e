"""What is seen in a terminal: numbers with their evidence, foreign text as text."""

from __future__ import annotations

import io
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made
from rich.console import Console

from kopt import runs
from kopt.records import Status
from kopt.report import listing, single, terminal
from kopt.report.rows import rows
from kopt.text import duration

HOSTILE = "\x1b[2J[bold red]boo[/bold red] \u202ekram \x07"


def said(renderable: object, *, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=colour, highlight=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_summary_tells_the_story(workspace: Path) -> None:
    text = said(terminal.summary(rows(m.load(m.write(workspace, m.climb(40, 2))))))
    for words in ("fp8_gemm on NVIDIA H200", "7.6 % -> 70", "MODELLED", "Landmarks", "Top five", "Failures by cause",
                  "the budget of 40 submissions is spent"):  # fmt: skip
        assert words in text


def test_one_submission_is_no_climb(workspace: Path) -> None:
    text = said(terminal.summary(rows(m.load(m.write(workspace, [Made(0.345)])))))
    assert "->" not in text
    assert "34.5 % of peak   MODELLED" in text
    assert "1 submission ·" in text


@pytest.mark.parametrize("made", [[], [Made(status=Status.WRONG)], [Made(finished=False)]])
def test_a_run_without_a_score_says_so(workspace: Path, made: list[Made]) -> None:
    assert "no submission has a score" in said(terminal.summary(rows(m.load(m.write(workspace, made)))))


def test_no_score_is_printed_without_its_evidence(workspace: Path) -> None:
    run = m.load(m.write(workspace, [Made(0.345), Made(0.567)]))
    for text in (said(terminal.summary(rows(run))), said(single.verdict(run.verdict(1), rows(run).submissions[0])),
                 listing.runs(runs.summaries(workspace))):  # fmt: skip
        for row in text.splitlines():
            if "56.7 %" in row or "34.5 %" in row:
                assert "odelled" in text
        assert "easured" not in text


def test_hostile_notes_reasons_and_events_are_text(workspace: Path) -> None:
    made = [Made(0.2, note=HOSTILE, origin=HOSTILE), Made(status=Status.WRONG, note=HOSTILE, message=HOSTILE)]
    extra = [{"type": HOSTILE}, {"type": "lesson", "text": HOSTILE}, {"type": "error", "message": HOSTILE}]
    run = m.load(m.write(workspace, made, extra=extra, stop=HOSTILE))
    shown = rows(run)
    for text in (
        said(terminal.summary(shown)),
        said(terminal.submissions(shown.submissions)),
        *(said(single.verdict(run.verdict(n), shown.submissions[n - 1])) for n in (1, 2)),
        said(single.source(HOSTILE)),
        said(single.difference([f"+{HOSTILE}"])),
        listing.runs(runs.summaries(workspace)),
    ):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
        assert "␛[2J[bold red]boo[/bold red] <U+202E>kram ␇" in text


def test_facts_that_are_not_as_expected_are_text_too(workspace: Path) -> None:
    odd = {"name": HOSTILE, "registers": HOSTILE, "shared": HOSTILE, "spill_loads": None, "mma": {HOSTILE: HOSTILE},
           "remarks": [HOSTILE]}  # fmt: skip
    made = [Made(0.2, kernel=odd, parameters={"BLOCK_M": HOSTILE}), Made(0.3, kernel={"mma": "none", "remarks": None})]
    run = m.load(m.write(workspace, made))
    for row in rows(run).submissions:
        text = said(single.verdict(run.verdict(row.n), row))
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "Kernels" in text


def test_a_verdict_shows_finding_facts_and_shapes(workspace: Path) -> None:
    run = m.load(m.write(workspace, [Made(0.5, parameters={"BLOCK_M": 128}), Made(status=Status.WRONG)]))
    shown = rows(run).submissions
    passed, wrong = (said(single.verdict(run.verdict(n), shown[n - 1])) for n in (1, 2))
    for words in ("modelled 50.0 % of peak", "BLOCK_M=128", "QGMMA.64x256x32 x16", "192 KiB", "modelled us", "tensor"):
        assert words in passed
    for words in ("wrong", "numerics.bound", "ragged (17, 63): element (17, 63) is off", "got 1.5, want 1.25"):
        assert words in wrong


def test_a_sparkline_has_a_bar_a_value_and_blanks_for_failures() -> None:
    assert terminal.sparkline([0.1, None, 0.8]) == "▂ █"
    assert terminal.sparkline([]) == ""
    assert terminal.sparkline([None, None]) == "  "
    assert len(terminal.sparkline([0.5] * 1000, 60)) <= 60


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words
