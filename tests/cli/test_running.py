"""run, resume, check and submit from the shell, on a small task that `kopt tasks new` made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import made_runs as m
import pytest

from kopt import loop
from kopt.budget import Budget
from kopt.cli.shared import INTERRUPTED
from kopt.journal import FILE, read
from kopt.report.live import STOPPING
from kopt.submit import submit

PACKAGE = str(Path(m.__file__).parents[1] / "optimizer")
COMMAND = (sys.executable, "-u", "-c", "from kopt.cli.app import main; main()")
DEADLINE = 200.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a task that was made and left as it is."""
    folder = tmp_path_factory.mktemp("house")
    for arguments in (["init", "."], ["tasks", "new", "tiny"]):
        done = kopt(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PACKAGE}


def kopt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.fixture
def live(house: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A command in the background; killed with its children should the test fail."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=house, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def events(folder: Path) -> list[str]:
    path = folder / FILE
    return [event.type for event in read(path)] if path.exists() else []


def test_run_reports_records_draws_and_can_be_resumed(house: Path) -> None:
    done = kopt(house, "run", "tiny", "--name", "first", "--trials", "2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert (shown["id"], shown["evidence"], shown["statuses"]) == ("first", "modelled", {"passed": 1})
    assert shown["charges"]["trials"] == 2
    for path in shown["figures"]:
        assert Path(path).stat().st_size > 1000
    assert "#1 passed  modelled" in done.stderr, "progress goes beside the document"
    before = (house / "submissions" / "first" / FILE).read_bytes()

    done = kopt(house, "resume", "first", "--trials", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MODELLED" in done.stdout
    assert (house / "submissions" / "first" / FILE).read_bytes().startswith(before)
    assert json.loads(kopt(house, "runs", "--json").stdout)[0]["trials"] == 3


def test_check_answers_for_the_file_and_records_nothing(house: Path) -> None:
    good, bad = house / "good.py", house / "bad.py"
    shutil.copy(house / "kernels" / "tiny" / "naive.py", good)
    bad.write_text("import os\n" + good.read_text())
    runs = kopt(house, "runs", "--json").stdout
    done = kopt(house, "check", "tiny", "good.py", "--set", "BLOCK=256")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  modelled" in done.stdout
    done = kopt(house, "check", "tiny", "bad.py", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "rejected"
    assert kopt(house, "runs", "--json").stdout == runs


def test_a_watched_file_is_judged_again_when_it_changes(
    house: Path, live: Callable[..., subprocess.Popen[str]]
) -> None:
    file = house / "watched.py"
    file.write_text("def tiny(:\n")
    process = live("check", "tiny", "watched.py", "--watch")
    assert process.stdout is not None
    said: list[str] = []

    def read_until(words: str) -> None:
        for line in process.stdout or ():
            said.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} was never said: {said}")

    read_until("policy.syntax")
    file.write_text("x = 1\n")
    read_until("policy.entry")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors


def test_submit_records_one_file_in_a_new_run_or_a_given_one(house: Path) -> None:
    (house / "mine.py").write_text("def tiny(x, y, out):\n    pass\n")
    done = kopt(house, "submit", "tiny", "mine.py", "--note", "nothing: at all", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    first = json.loads(done.stdout)
    assert (first["n"], first["note"], first["origin"]) == (1, "nothing: at all", "user")
    (house / "mine.py").write_text("def tiny(x, y):\n    pass\n")
    done = kopt(house, "submit", "tiny", "mine.py", "--run", first["run"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"recorded as {first['run']}/2" in done.stdout
    assert len(m.load(house / "submissions" / first["run"]).entries) == 2
    done = kopt(house, "submit", "fp8_gemm", "mine.py", "--run", first["run"])
    assert done.returncode == 2
    assert "is a run of task tiny, not of fp8_gemm" in done.stderr


def test_what_starts_in_the_same_second_is_a_run_of_its_own(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standing(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Standing:
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(loop, "datetime", Standing)
    run = loop.start("tiny", modelled=True, workspace=house, budget=Budget(submissions=0))
    submitted, _ = submit("tiny", "def tiny(x, y):\n    pass\n", modelled=True, workspace=house)
    assert (run.id, submitted.id) == ("tiny-20260101-000000", "tiny-20260101-000000-2")
    assert [len(m.load(house / "submissions" / id).entries) for id in (run.id, submitted.id)] == [0, 1]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_cleanly_and_resume_goes_on(house: Path, live: Callable[..., subprocess.Popen[str]]) -> None:
    folder = house / "submissions" / "cut"
    process = live("run", "tiny", "--name", "cut")
    wait_for(lambda: "proposed" in events(folder))
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == INTERRUPTED, errors
    assert "stopping after this stage; Ctrl-C again ends it at once" in out
    assert "stopped: stopped by request" in out
    assert "next    kopt resume cut" in out
    assert "Traceback" not in errors
    assert events(folder)[-1] == "stopped"
    done = kopt(house, "resume", "cut", "--trials", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(folder).count("proposed") == len(m.load(folder).entries)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once_and_says_how_it_goes_on(
    house: Path, live: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = house / "submissions" / "halted"
    (house / "endless.py").write_text("while True: pass\n\ndef tiny(x, y, out):\n    pass\n")
    process = live("run", "tiny", "--name", "halted", "--from", "endless.py")
    wait_for(lambda: "proposed" in events(folder))
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().strip() == STOPPING
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == INTERRUPTED, errors
    assert errors == "kopt: interrupted; kopt resume halted goes on\n"
    assert events(folder)[-1] == "proposed"
