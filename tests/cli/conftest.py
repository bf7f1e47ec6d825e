"""The command line, run as a user runs it: in this process where that tells the same, else as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import kopt
from kopt.cli.app import main

PACKAGE = str(Path(kopt.__file__).parent.parent)
COMMAND = (sys.executable, "-c", "from kopt.cli.app import main; main()")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Kopt = Callable[..., Done]


@pytest.fixture
def kopt_here(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kopt:
    """`kopt ARGUMENTS` in the workspace, in this process."""
    monkeypatch.chdir(workspace)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["kopt", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def kopt_process(workspace: Path) -> Kopt:
    """`kopt ARGUMENTS` in the workspace, as a process without a terminal."""

    def call(*arguments: str, env: dict[str, str] | None = None, before: Sequence[str] = COMMAND) -> Done:
        done = subprocess.run(
            [*before, *arguments],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": PACKAGE, **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=200,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call
