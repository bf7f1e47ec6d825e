"""SIGKILL at random moments, resume, and the journal says the same as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loopback_run import replies
from providers import serving

from kopt.journal import FILE, read
from kopt.run import Run

SCRIPT = Path(__file__).with_name("loopback_run.py")
CLOCK = {"seconds", "wall", "queued", "screened"}
PROCESS = {"started", "stopped", "request"}
"""Events that say that a process came and went; a request may be sent again by the next one."""


def content(workspace: Path) -> list[Any]:
    """What the journal says, without clocks and processes."""
    path = workspace / "submissions" / "axpy-1" / FILE
    return [(event.type, _timeless(event.payload)) for event in read(path) if event.type not in PROCESS]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in CLOCK}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value


def drive(workspace: Path, calls: int, kill_at: float | None = None, url: str = "") -> int:
    """One process on the run; killed once the journal has grown by `kill_at` bytes."""
    workspace.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(workspace), str(calls), *([url] if url else [])]
    process = subprocess.Popen(command, env=os.environ)
    if kill_at is not None:
        path = workspace / "submissions" / "axpy-1" / FILE
        before = path.stat().st_size if path.exists() else 0
        while process.poll() is None and (path.stat().st_size if path.exists() else 0) < before + kill_at:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    return process.wait()


def killed(workspace: Path, calls: int, kills: int, seed: int, url: str = "") -> int:
    """Kill and resume until the run ends; returns how often it was killed."""
    draw = random.Random(seed)
    done = 0
    while done < kills and drive(workspace, calls, draw.uniform(2_000, 90_000), url) == -signal.SIGKILL:
        done += 1
    assert drive(workspace, calls, url=url) == 0
    return done


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_journal(tmp_path: Path) -> None:
    calls = 500
    assert drive(tmp_path / "whole", calls) == 0
    assert killed(tmp_path / "killed", calls, 5, seed=1) >= 3
    run = the_same(tmp_path)
    assert run.charges.tool_calls == calls
    assert run.charges.submissions == len(run.entries) > 30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_day_of_calls_to_a_server_survives_a_dozen_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 tool calls and some 150 submissions, over the wire of an OpenAI-compatible server."""
    pytest.importorskip("pydantic_ai", reason="needs the extra: model")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    calls = 2000
    with serving(replies) as server:
        assert drive(tmp_path / "whole", calls, url=server.url) == 0
        assert killed(tmp_path / "killed", calls, 12, seed=7, url=server.url) >= 6
    run = the_same(tmp_path)
    assert run.charges.tool_calls == calls
    assert len(run.entries) > 120
    assert run.dialogue.notices == []


def the_same(folder: Path) -> Run:
    """The run that was killed, found to say what the whole one says."""
    whole, resumed = content(folder / "whole"), content(folder / "killed")
    for i, (one, other) in enumerate(zip(whole, resumed, strict=False)):
        assert one == other, f"event {i} differs"
    assert len(whole) == len(resumed)
    run = Run.load(folder / "killed" / "submissions" / "axpy-1")
    sources = {path.name for path in (run.folder / "sources").iterdir()}
    assert sources == {entry.submission.file for entry in run}
    return run
