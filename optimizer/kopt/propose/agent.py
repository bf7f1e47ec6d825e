"""A coding agent's command line drives the run, through kopt's MCP tools or `kopt submit`.

It works in a folder of its own, prepared with the brief, the skeleton and an MCP configuration; the evaluator stays
in this process, out of the agent's sandbox. When it stops early it is started again, in a fresh episode; when the run
ends, it is ended with its whole process group.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kopt import content
from kopt.errors import UsageError
from kopt.propose.opening import begin_from, first_message
from kopt.propose.plateau import plan
from kopt.session import Session, Stop
from kopt.text import line

NAME = "agent"
IDLE = 3
"""Starts in a row without a single tool call, after which the command is not started again."""
GRACE = 5.0
"""Seconds an agent has to end by itself when the run does."""
POLL = 0.2
_SLOTS = ("brief", "mcp_config", "workspace", "run", "prompt")


class Agent:
    """The proposer behind `--agent CMD`.

    `{brief}`, `{mcp_config}`, `{workspace}` and `{run}` in the command stand for paths, `{prompt}` for a one-line
    instruction. The environment has KOPT_RUN, KOPT_TASK and KOPT_BRIEF.
    """

    def __init__(self, command: str, start: str = "") -> None:
        """`start` is a kernel to begin from. UsageError when the command cannot be read or its program is not there."""
        self._command = parse(command)
        self._start = start

    def drive(self, session: Session) -> None:
        begin_from(session, self._start)
        idle = 0
        while True:
            session.check()
            before = session.run.charges.tool_calls
            reason = self._episode(session)
            idle = idle + 1 if session.run.charges.tool_calls == before else 0
            if idle >= IDLE:
                raise Stop(f"the agent made no tool call in {IDLE} starts; the last one ended with {reason}")

    def _episode(self, session: Session) -> str:
        """One life of the agent; returns how it ended."""
        dialogue = session.run.dialogue
        if dialogue.episode is not None and not dialogue.episode.ended:
            session.record("episode_end", episode=dialogue.episode.n, why="its process was gone")
        n = dialogue.episode.n + 1 if dialogue.episode else 1
        folder = prepare(session, n)
        mode = plan(session.run, [NAME]).mode
        text = (folder / "BRIEF.md").read_text(encoding="utf-8")
        session.record("brief", sha=f"agent-{n}", text=text)
        session.record("episode", episode=n, mode=mode, model=NAME, brief=f"agent-{n}", opening="")
        transcript = session.run.folder / "agent" / f"{n:04d}.log"
        started = time.monotonic()
        reason, handed = "", False
        try:
            reason = _run(session, self._filled(session, folder), folder, transcript, _environment(session, folder))
        except Stop as stop:
            reason = f"the run's end: {stop}"
            raise
        finally:
            handed = bool(dialogue.episode and dialogue.episode.ended)
            session.record(
                "agent", episode=n, reason=reason, seconds=round(time.monotonic() - started, 3),
                transcript=str(transcript.relative_to(session.run.folder)),
            )  # fmt: skip
            if not handed:
                session.record("episode_end", episode=n, why=reason)
        return reason

    def _filled(self, session: Session, folder: Path) -> list[str]:
        values = {
            "brief": str(folder / "BRIEF.md"),
            "mcp_config": str(folder / ".mcp.json"),
            "workspace": str(folder),
            "run": str(session.run.folder),
            "prompt": (
                "Read BRIEF.md and do what it says, with the tools of the MCP server kopt. "
                "Go on until kopt says that the run is over."
            ),
        }
        filled = []
        for word in self._command:
            for slot in _SLOTS:
                word = word.replace(f"{{{slot}}}", values[slot])
            filled.append(word)
        return filled


def parse(command: str) -> list[str]:
    """The command's words; UsageError names what is wrong with it."""
    import shutil

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--agent {line(command, 80)!r}: {error}") from None
    if not words:
        raise UsageError("--agent needs a command line, such as --agent 'claude -p {prompt} --mcp-config {mcp_config}'")
    if shutil.which(words[0]) is None:
        raise UsageError(f"--agent {line(words[0], 80)!r}: no such program")
    return words


def prepare(session: Session, n: int) -> Path:
    """The agent's folder: brief, skeleton, the best source so far, and how to reach kopt."""
    folder = session.run.folder / "agent" / f"{n:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    run = session.run
    (folder / "BRIEF.md").write_text(first_message(session), encoding="utf-8")
    (folder / "skeleton.py").write_text(content.skeleton(session.task), encoding="utf-8")
    if run.incumbent is not None:
        (folder / "best.py").write_text(run.source(run.incumbent.n), encoding="utf-8")
    server = {"command": sys.executable, "args": ["-m", "kopt", "mcp", "--run", str(run.folder), "--as", "agent"]}
    (folder / ".mcp.json").write_text(json.dumps({"mcpServers": {"kopt": server}}, indent=2) + "\n", encoding="utf-8")
    return folder


def _environment(session: Session, folder: Path) -> dict[str, str]:
    run = session.run
    package = str(Path(__file__).resolve().parents[2])
    return {
        **os.environ,
        # So that `python -m kopt` is this kopt, from whichever folder the agent calls it.
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", "")))),
        "KOPT_RUN": str(run.folder),
        "KOPT_TASK": run.meta.task,
        "KOPT_BRIEF": str(folder / "BRIEF.md"),
    }


def _run(session: Session, command: list[str], folder: Path, transcript: Path, environment: dict[str, str]) -> str:
    """Start the agent in a session of its own and wait for it; Stop ends it with its process group."""
    with transcript.open("wb") as log:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"no start: {error.strerror}"
        try:
            while process.poll() is None:
                session.check()
                time.sleep(POLL)
        except Stop:
            _hear_out(session, process)
            raise
        finally:
            _bury(process)
    return f"exit code {process.returncode}"


def _hear_out(session: Session, process: subprocess.Popen[Any]) -> None:
    """When the budget ends, the verdict of what is still being judged reaches the agent, and it may leave by itself."""
    while not session.stopping and session.run.pending is not None and process.poll() is None:
        time.sleep(POLL)
    if not session.stopping:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _bury(process: subprocess.Popen[Any]) -> None:
    """End the process group: politely, then not."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    # The group may outlive its leader.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
