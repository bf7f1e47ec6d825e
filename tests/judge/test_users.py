"""Runners as users of their own, where kopt is root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")

# A child is told what to try at the pid of its sibling, which has become a user before it.
TRY = """
import os, resource, signal, sys, time
from pathlib import Path
from kopt.judge import confine

def child(folder, then):
    mine, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            user = confine.become(Path(folder))
            os.write(theirs, b"%d\\n" % user)
            then()
        except BaseException as error:
            os.write(theirs, type(error).__name__.encode())
        os._exit(0)
    os.close(theirs)
    return pid, os.fdopen(mine)

first, said = child(sys.argv[1], lambda: time.sleep(60))
users = [said.readline().strip()]
second, said = child(sys.argv[2], lambda: (eval(sys.argv[3])(first), None)[1])
users.append(said.readline().strip())
what = said.read()
os.kill(first, signal.SIGKILL)
print(len(set(users)), what)
"""


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """Where runners have theirs: pytest's own lie in a folder that others cannot enter."""
    with ExitStack() as stack:
        first, second = (Path(tempfile.mkdtemp(prefix="kopt-runner-")) for _ in range(2))
        for folder in (first, second):
            stack.callback(shutil.rmtree, folder)
            (folder / "file").touch()
        yield first, second


def tried(folders: tuple[Path, Path], what: str) -> str:
    """How many users there were, and what the second met when it did something at the pid of the first."""
    arguments = [sys.executable, "-c", TRY, *map(str, folders), what]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(
    "attack",
    [
        "lambda pid: os.kill(pid, signal.SIGSTOP)",
        "lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19)",
        "lambda pid: os.sched_setaffinity(pid, {0})",
        "lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0))",
        "lambda pid: Path(sys.argv[1], 'file').write_text('mine')",
    ],
)
def test_a_runner_has_no_power_over_another(attack: str, folders: tuple[Path, Path]) -> None:
    assert tried(folders, attack) == "2 PermissionError"


def test_a_runner_owns_its_folder(folders: tuple[Path, Path]) -> None:
    assert tried(folders, "lambda pid: Path(sys.argv[2], 'file').write_text('mine')") == "2"
    assert (folders[1] / "file").read_text() == "mine"
