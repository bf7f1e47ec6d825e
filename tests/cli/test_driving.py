"""The command line of model, agent, replay, brief and mcp: wrong usage is one clear line, before anything is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from quick import WORKSPACE

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "kopt.toml").touch()
    (tmp_path / "tasks").symlink_to(WORKSPACE / "tasks")
    return tmp_path


def kopt(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kopt", *arguments, "--workspace", str(workspace)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "axpy", "--model", "gpt"), "name one as PROVIDER:NAME"),
        (("run", "axpy", "--model", "scripted"), "no recorded session for task axpy"),
        (("run", "axpy", "--model", "a:b", "--agent", "true"), "--model and --agent: one of them can drive a run"),
        (("run", "axpy", "--agent", "no-such-agent"), "no such program"),
        (("run", "axpy", "--replay", "nothing"), "no run 'nothing'"),
        (("mcp",), "kopt mcp needs --task TASK to start a run, or --run RUN to join one"),
        (("mcp", "--task", "nothing"), "unknown task 'nothing'"),
        (("brief", "nothing"), "unknown task 'nothing'"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_no_run(workspace: Path, arguments: tuple[str, ...], message: str) -> None:
    done = kopt(workspace, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(workspace.glob("submissions/*"))


def test_a_missing_key_names_the_variable(workspace: Path) -> None:
    pytest.importorskip("pydantic_ai", reason="needs the extra: model")
    done = kopt(workspace, "run", "axpy", "--model", "anthropic:claude-sonnet-4-5")
    assert done.returncode == 2
    assert "Set the `ANTHROPIC_API_KEY` environment variable" in done.stderr
    assert "about $" in done.stderr.splitlines()[0]
    assert "the cap is $20" in done.stderr
    assert not list(workspace.glob("submissions/*"))


def test_brief_prints_what_a_model_sees(workspace: Path) -> None:
    done = kopt(workspace, "brief", "axpy")
    assert done.returncode == 0
    assert "# Task: a x plus y" in done.stdout
    assert "Nothing was submitted yet." in done.stdout
    assert "```json" in kopt(workspace, "brief", "axpy", "--fences").stdout
