"""What a finished run leaves on the screen, on the disk and in the shell."""

from __future__ import annotations

import json
from pathlib import Path

import made_runs as m
import pytest
import typer
from made_runs import Made

from kopt.cli.ending import end
from kopt.cli.shared import INTERRUPTED
from kopt.errors import HarnessError
from kopt.records import Status


def code(workspace: Path, made: list[Made], stop: str = "the budget of 40 submissions is spent") -> int:
    try:
        end(m.load(m.write(workspace, made, stop=stop)), workspace, json=False)
    except typer.Exit as ending:
        return ending.exit_code
    return 0


@pytest.mark.parametrize(
    ("made", "stop", "expected"),
    [
        ([Made(0.2), Made(status=Status.WRONG)], "enough", 0),
        ([Made(status=Status.WRONG)], "enough", 1),
        ([], "enough", 1),
        ([Made(0.2)], "stopped by request", INTERRUPTED),
    ],
)
def test_the_exit_code_says_whether_anything_passed_and_whether_it_was_stopped(
    workspace: Path, made: list[Made], stop: str, expected: int
) -> None:
    assert code(workspace, made, stop) == expected


def test_the_summary_names_figure_and_next_step(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code(workspace, [Made(0.2)])
    out = capsys.readouterr().out
    figure = next(line.split()[1] for line in out.splitlines() if line.startswith("figure"))
    assert Path(figure).is_file()
    assert "kopt show fp8_gemm-20260101-000000/best --source" in out


def test_after_a_stop_by_request_the_next_step_is_to_resume(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code(workspace, [Made(0.2)], "stopped by request")
    assert "next    kopt resume fp8_gemm-20260101-000000\n" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_a_figure_that_cannot_be_written_does_not_cost_the_summary(
    workspace: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    (workspace / "reports").write_text("a file in the way")
    with pytest.raises(HarnessError, match="cannot write figures"):
        end(m.load(m.write(workspace, [Made(0.2)])), workspace, as_json)
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out)["figures"] == []
    else:
        assert "modelled score" in out
