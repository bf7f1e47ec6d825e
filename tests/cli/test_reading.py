"""runs, show, diff, export, import, tasks, doctor: what they print, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_runs as m
import pytest
from made_runs import Made

from kopt.journal import FILE
from kopt.records import Status

Kopt = Any


@pytest.fixture
def night(workspace: Path) -> Path:
    return m.write(workspace, m.climb(30, 4), id="night")


def one_line(done: Any, code: int, words: str) -> None:
    assert done.code == code, done
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("kopt: error: ")
    assert words in lines[0]
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command 'nope'"),
        (["--nope"], "No such option: --nope"),
        (["runs", "--nope"], "No such option: --nope (kopt runs --help)"),
        (["run"], "Missing argument 'TASK'"),
        (["run", "t", "--submissions", "many"], "'--submissions'"),
        (["run", "t", "--submissions", "0"], "'--submissions'"),
        (["run", "t", "--until", "7"], "'--until'"),
        (["run", "nonesuch"], "unknown task 'nonesuch'"),
        (["run", "fp8_gemm", "--target", "z900"], "unknown target 'z900'; kopt knows"),
        (["run", "fp8_gemm", "--name", "a/b"], "--name 'a/b'"),
        (["run", "fp8_gemm", "--name", "last"], "--name 'last'"),
        (["run", "fp8_gemm", "--from", "none.py"], "none.py"),
        (["run", "fp8_gemm", "--shapes", "none.toml"], "none.toml"),
        (["resume", "zzz"], "no run 'zzz'"),
        (["show", "zzz"], "no run 'zzz'"),
        (["show", "night/99"], "run night has no submission 99; it has 1 to 30"),
        (["show", "night/0"], "has no submission 0"),
        (["diff", "night", "night/1"], "names a run"),
        (["diff", "night/1"], "Missing argument"),
        (["check", "fp8_gemm", "none.py"], "cannot read none.py: No such file"),
        (["check", "nonesuch", "kopt.toml"], "unknown task 'nonesuch'"),
        (["check", "fp8_gemm", "kopt.toml", "--set", "BLOCK_M"], "write NAME=VALUE"),
        (["check", "fp8_gemm", "kopt.toml", "--set", "BLOCK_M=1e999"], "inf is not a finite number"),
        (["submit", "fp8_gemm", "kopt.toml", "--run", "zzz"], "no run 'zzz'"),
        (["tasks", "show", "nonesuch"], "unknown task 'nonesuch'"),
        (["export", "zzz"], "no run 'zzz'"),
        (["import", "none.tgz"], "cannot read none.tgz"),
        (["--workspace", "/nonesuch", "runs"], "workspace /nonesuch is not a folder"),
        (["runs", "--workspace", "/nonesuch"], "workspace /nonesuch is not a folder"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    kopt_here: Kopt, night: Path, arguments: list[str], words: str
) -> None:
    one_line(kopt_here(*arguments), 2, words)


def test_help_names_every_command_and_the_exit_codes(kopt_here: Kopt) -> None:
    done = kopt_here("--help")
    assert done.code == 0
    for word in ("run", "resume", "runs", "show", "diff", "check", "submit", "tasks", "doctor", "init", "export",
                 "import", "Exit codes"):  # fmt: skip
        assert word in done.out
    assert "..." not in done.out.split("Commands:")[1], "a command's help is cut off"
    assert kopt_here().out == done.out


def test_the_version_is_printed(kopt_here: Kopt) -> None:
    import kopt

    assert kopt_here("--version") == (0, f"kopt {kopt.__version__}\n", "")


def test_a_workspace_can_be_named_before_and_after_the_command_and_by_the_environment(
    kopt_here: Kopt, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = str(night.parent.parent)
    assert "night" not in kopt_here("runs").out
    assert "night" in kopt_here("--workspace", there, "runs").out
    assert "night" in kopt_here("runs", "-w", there).out
    monkeypatch.setenv("KOPT_WORKSPACE", there)
    assert "night" in kopt_here("runs").out


def test_an_empty_workspace_says_how_to_start(kopt_here: Kopt) -> None:
    assert "kopt run TASK starts one" in kopt_here("runs").out
    assert json.loads(kopt_here("runs", "--json").out) == []


def test_show_tells_the_story_of_a_run_and_of_a_submission(kopt_here: Kopt, night: Path) -> None:
    text = kopt_here("show").out
    for words in ("MODELLED", "Landmarks", "Top five", "Failures by cause"):
        assert words in text
    best = kopt_here("show", "night/best", "--source").out
    assert "passed" in best
    assert "def fp8_gemm(a, b, scale_a, scale_b, out" in best
    assert len(kopt_here("show", "night", "--all").out.splitlines()) > 30


def test_json_is_one_document_that_says_the_same(kopt_here: Kopt, night: Path) -> None:
    run = m.load(night)
    assert run.incumbent is not None
    shown = json.loads(kopt_here("show", "night", "--json").out)
    assert shown["best"]["n"] == run.incumbent.n
    assert shown["evidence"] == "modelled"
    assert len(shown["submissions"]) == 30
    listed = json.loads(kopt_here("runs", "--json").out)
    assert (listed[0]["id"], listed[0]["best"]) == ("night", run.incumbent.score)
    single = json.loads(kopt_here("show", "night/1", "--json").out)
    assert single["verdict"]["status"] == "passed"
    both = json.loads(kopt_here("diff", "night/1", "night/best", "--json").out)
    assert both["old"]["submission"] == "night/1"
    assert any(line.startswith("+") for line in both["diff"])


def test_diff_shows_what_changed_or_that_nothing_did(kopt_here: Kopt, night: Path) -> None:
    text = kopt_here("diff", "night/1", "night/2").out
    assert '-"""Submission 1."""' in text
    assert '+"""Submission 2."""' in text
    assert "the sources are the same" in kopt_here("diff", "night/1", "night/1").out


def test_a_run_travels_as_one_archive(kopt_here: Kopt, night: Path, tmp_path: Path) -> None:
    done = kopt_here("export", "night", str(tmp_path / "n.tgz"), "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["bytes"] == (tmp_path / "n.tgz").stat().st_size
    other = tmp_path / "other"
    other.mkdir()
    assert json.loads(kopt_here("import", str(tmp_path / "n.tgz"), "-w", str(other), "--json").out)["run"] == "night"
    assert (other / "submissions" / "night" / FILE).read_bytes() == (night / FILE).read_bytes()
    one_line(kopt_here("import", str(tmp_path / "n.tgz"), "-w", str(other)), 2, "is already in")


def test_a_torn_journal_is_shown_up_to_the_tear(kopt_here: Kopt, night: Path) -> None:
    with (night / FILE).open("ab") as file:
        file.write(b'{"seq":99,"ti')
    assert kopt_here("show", "night").code == 0
    assert "stopped" in kopt_here("runs").out


def test_a_corrupt_line_is_refused_with_its_number_and_nothing_is_lost(kopt_here: Kopt, night: Path) -> None:
    lines = (night / FILE).read_bytes().splitlines(keepends=True)
    lines[4] = b"\x00garbage\n"
    (night / FILE).write_bytes(b"".join(lines))
    before = (night / FILE).read_bytes()
    for arguments in (["show", "night"], ["show", "night/1"], ["export", "night"]):
        one_line(kopt_here(*arguments), 4, "journal.jsonl: line 5 is not a journal event")
    listed = kopt_here("runs")
    assert listed.code == 0
    assert "broken" in listed.out
    assert (night / FILE).read_bytes() == before


def test_newer_events_are_shown_as_such(kopt_here: Kopt, workspace: Path) -> None:
    m.write(workspace, [Made(0.2)], id="newer", extra=[{"type": "hologram"}])
    done = kopt_here("show", "newer")
    assert done.code == 0
    assert "this version of kopt does not know: hologram (1)" in done.out
    assert json.loads(kopt_here("show", "newer", "--json").out)["unknown"] == {"hologram": 1}


def test_a_submission_in_flight_has_no_verdict_yet(kopt_here: Kopt, workspace: Path) -> None:
    m.write(workspace, [Made(0.2), Made(finished=False)], id="cut", stop=None)
    assert "no verdict yet" in kopt_here("show", "cut/last").out
    assert "interrupted" in kopt_here("runs").out


def test_tasks_are_listed_and_shown(kopt_here: Kopt) -> None:
    assert "fp8_gemm" in kopt_here("tasks").out
    assert "fp8_gemm" in [task["name"] for task in json.loads(kopt_here("tasks", "list", "--json").out)]
    shown = kopt_here("tasks", "show", "fp8_gemm").out
    for words in ("scale_a", "float8_e4m3fn", "timing", "families: "):
        assert words in shown
    assert json.loads(kopt_here("tasks", "show", "fp8_gemm", "--json").out)["entry"] == "fp8_gemm"


def test_run_names_are_completed(night: Path, kopt_process: Kopt) -> None:
    for words, index, expected in (("kopt show ni", 2, "night"), ("kopt show night/be", 2, "night/best"),
                                   ("kopt run fp8", 2, "fp8_gemm")):  # fmt: skip
        env = {"_KOPT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        done = kopt_process(env=env)
        assert expected in done.out.split(), done


def test_a_failed_submission_is_explained(kopt_here: Kopt, workspace: Path) -> None:
    m.write(workspace, [Made(status=Status.WRONG)], id="bad")
    text = kopt_here("show", "bad/1").out
    assert "numerics.bound" in text
    assert "ragged (17, 63)" in text
