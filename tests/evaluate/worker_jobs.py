"""Jobs that the tests of the workers run in forked children: ours, not candidates."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kopt.evaluate.worker.candidate import load

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def candidate(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Import folder/kernel.py and return what its entry() does."""
    return {"returned": load(folder / "kernel.py", "entry").entry()}


def echo(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    return payload


def parent(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    return {"pid": os.getppid()}


def questions(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Ask `times` times whatever `question` is; give back the last answer."""
    for _ in range(payload["times"]):
        answer = ask(payload["question"])
    return answer


def unanswered(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    ask({})
    return {}


def huge(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    return {"text": "x" * payload["bytes"]}


def unspeakable(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    return {"object": object()}


def nap(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "pid").rename(folder / "begun")  # whoever sees it may kill us at once: it is whole from its first moment
    time.sleep(payload["seconds"])
    return {}


def meet(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Wait until `count` jobs of this folder are here."""
    (folder / f"here-{payload['name']}").touch()
    while len(list(folder.glob("here-*"))) < payload["count"]:
        time.sleep(0.01)
    return {}


def nap_once(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Sleep the first time, return at once the second."""
    if (folder / "begun").exists():
        return {"again": True}
    return nap(payload, folder, ask)


def scatter(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Leave a tree of processes in sessions of their own, their parents dead, then return or spin."""
    for _ in range(payload["count"]):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with (folder / "pids").open("a") as pids:
                    pids.write(f"{os.getpid()}\n")
                time.sleep(600)
            os._exit(0)
    while len((folder / "pids").read_text().split() if (folder / "pids").exists() else ()) < payload["count"]:
        time.sleep(0.01)
    if payload["spin"]:
        time.sleep(600)
    return {}
