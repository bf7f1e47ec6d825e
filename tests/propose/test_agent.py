"""A coding agent's command line drives the run: prepared, recorded, charged, started again, ended with its group."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from quick import session

from kopt.budget import Budget
from kopt.errors import UsageError
from kopt.interact.socket import Control
from kopt.journal import FILE, read
from kopt.loop import drive
from kopt.propose.agent import IDLE, Agent, parse
from kopt.run import Run

STANDIN = Path(__file__).with_name("standin.py")


def run_with(tmp_path: Path, how: str, budget: Budget) -> Run:
    with session(tmp_path, budget=budget, proposer="agent:x") as live:
        drive(live, Agent(f"{sys.executable} {STANDIN} {how}"), Control(live))
        return live.run


def test_an_agent_reaches_kopt_over_mcp_and_is_started_again_until_the_budget_is_spent(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra: mcp")
    run = run_with(tmp_path, "mcp", Budget(submissions=2))
    assert [(e.n, e.submission.origin, e.submission.note) for e in run] == [
        (1, "agent", "Agent's kernel 01"), (2, "agent", "Agent's kernel 02"),
    ]  # fmt: skip
    assert run.ended == "the budget of 2 submissions is spent"
    assert run.charges.tool_calls == 2
    assert run.charges.model_seconds > 0
    lives = [e.payload for e in read(run.folder / FILE) if e.type == "agent"]
    assert [life["episode"] for life in lives] == [1, 2]
    transcript = (run.folder / lives[0]["transcript"]).read_text()
    assert "stand-in mcp for axpy" in transcript
    assert "Submission 1: passed" in transcript
    # The budget was spent when the second was proposed.
    assert "Submission 2: passed" in (run.folder / lives[1]["transcript"]).read_text()


def test_its_folder_holds_the_brief_the_skeleton_and_the_way_to_kopt(tmp_path: Path) -> None:
    run = run_with(tmp_path, "idle", Budget())
    folder = run.folder / "agent" / "0001"
    assert "You act through kopt's tools" in (folder / "BRIEF.md").read_text()
    assert "TODO: add y" in (folder / "skeleton.py").read_text()
    server = json.loads((folder / ".mcp.json").read_text())["mcpServers"]["kopt"]
    assert server["args"][-4:] == ["--run", str(run.folder), "--as", "agent"]


@pytest.mark.parametrize(("how", "end"), [("idle", "exit code 0"), ("fails", "exit code 3")])
def test_an_agent_that_does_nothing_is_not_started_for_ever(tmp_path: Path, how: str, end: str) -> None:
    run = run_with(tmp_path, how, Budget())
    assert run.ended == f"the agent made no tool call in {IDLE} starts; the last one ended with {end}"
    assert len(list((run.folder / "agent").glob("*.log"))) == IDLE


def test_the_end_of_the_run_ends_the_agent_and_its_children(tmp_path: Path) -> None:
    with session(tmp_path) as live:
        thread = threading.Thread(target=lambda: drive(live, Agent(f"{sys.executable} {STANDIN} stays")))
        thread.start()
        pid_file = live.run.folder / "agent" / "0001" / "child.pid"
        while not pid_file.exists() or not pid_file.read_text():
            time.sleep(0.05)
        child = int(pid_file.read_text())
        live.request_stop()
        thread.join(30)
        assert not thread.is_alive()
        assert live.run.ended == "stopped by request"
        assert _gone(child)


def test_a_resumed_run_starts_a_fresh_episode(tmp_path: Path) -> None:
    with session(tmp_path) as live:
        live.record("brief", sha="agent-1", text="x")
        live.record("episode", episode=1, mode="start", model="agent", brief="agent-1", opening="")
    run = run_with(tmp_path, "idle", Budget())
    ends = [e.payload["why"] for e in read(run.folder / FILE) if e.type == "episode_end"]
    assert ends == ["its process was gone", *["exit code 0"] * IDLE]


@pytest.mark.parametrize(
    ("command", "message"),
    [("", "needs a command line"), ("'unclosed", "No closing quotation"), ("no-such-agent -p", "no such program")],
)
def test_a_command_that_cannot_be_started_is_one_clear_line(command: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(command)


def _gone(pid: int) -> bool:
    """Dead, or dead and not yet reaped by whoever adopted it."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    os.kill(pid, 9)
    return False
