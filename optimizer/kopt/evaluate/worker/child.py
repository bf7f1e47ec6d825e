"""What a forked child does with its one job: take the request, raise the walls, run, reply, and be gone.

The reply carries a nonce from the request. It keeps a stray write to the channel from passing for a reply; it does
not keep out a candidate that searches its own process for it, since one process has no inside. Nothing an untrusted
job says is evidence: what matters is computed again by a process that never saw the candidate.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kopt.evaluate.worker import channel
from kopt.evaluate.worker.candidate import CandidateError
from kopt.evaluate.worker.walls import Walls

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Job = Callable[[dict[str, Any], Path, Ask], dict[str, Any]]

_LINE = 400
"""Characters of an error's one line."""
_TRACEBACK = 8000
"""Characters of a traceback that are worth keeping."""


class Refused(RuntimeError):
    """The driver does not answer this question."""


def main(sock: socket.socket, job: Job, folder: Path, walls: Walls | None) -> None:
    """Run one job and leave the process. Never returns."""
    status = 1
    try:
        os.chdir(folder)
        # Whatever writes to "home" or to a temporary directory writes into the job's own folder.
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
            os.environ[name] = str(folder)
        os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
        reader = channel.Reader()
        request = channel.receive(sock, reader)
        reply = _run(sock, reader, job, folder, request, walls)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        sock.sendall(_frame(reply, request["nonce"]))
        status = 0
    except (OSError, EOFError):
        pass  # the driver is gone, or the candidate closed the channel; no reply says enough
    finally:
        os._exit(status)


def _run(
    sock: socket.socket,
    reader: channel.Reader,
    job: Job,
    folder: Path,
    request: Mapping[str, Any],
    walls: Walls | None,
) -> dict[str, Any]:
    nonce = request["nonce"]

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        sock.sendall(channel.encode({"ask": question, "nonce": nonce}))
        answer = channel.receive(sock, reader)
        if "refused" in answer:
            raise Refused(str(answer["refused"]))
        value: dict[str, Any] = answer["answer"]
        return value

    try:
        if walls is not None:
            walls.up()
        value = job(request["payload"], folder, ask)
        if not isinstance(value, dict):
            raise TypeError(f"{job.__module__}:{job.__qualname__} returned {type(value).__name__}, not a dict")
        return {"outcome": "ok", "value": value}
    except BaseException as error:
        return _failure(error, folder)


def _frame(reply: dict[str, Any], nonce: str) -> bytes:
    try:
        return channel.encode({**reply, "nonce": nonce})
    except (TypeError, ValueError, RecursionError, channel.FrameError) as error:
        line = f"the job's reply cannot be sent: {error}"
        return channel.encode({"outcome": "error", "error": line[:_LINE], "nonce": nonce})


def _failure(error: BaseException, folder: Path) -> dict[str, Any]:
    if isinstance(error, SystemExit):
        outcome, line = "crashed", f"called sys.exit({_text(error)})"
    elif isinstance(error, CandidateError):
        outcome, line = "error", _text(error)
    else:
        text = _text(error)
        line = f"{type(error).__name__}: {text}" if text else type(error).__name__
        outcome = "memory" if _out_of_memory(error) else "error"
    ours = isinstance(error, CandidateError)  # what it was raised from is the candidate's
    frames = traceback.extract_tb((error.__cause__ if ours and error.__cause__ else error).__traceback__)
    # The frames that matter begin where the candidate's file does.
    own = [i for i, frame in enumerate(frames) if Path(frame.filename).parent == folder]
    if own and not ours:
        line = f"{line} ({Path(frames[own[-1]].filename).name}:{frames[own[-1]].lineno})"
    shown = "".join(traceback.format_list(frames[own[0] if own else 0 :])) + line
    facts = error.facts if isinstance(error, CandidateError) else {}
    return {"outcome": outcome, "error": line, "traceback": shown[-_TRACEBACK:], "value": facts}


def _text(error: BaseException) -> str:
    """The first line of an exception's text, which candidate code may have written and which may itself raise."""
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = "(its text cannot be read)"
    return text if len(text) <= _LINE else text[: _LINE - 3] + "..."


def _out_of_memory(error: BaseException) -> bool:
    # torch reports a failed CPU allocation as RuntimeError "... DefaultCPUAllocator: can't allocate memory ...".
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "t allocate memory" in _text(error))
