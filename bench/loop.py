"""What the loop itself costs: everything but model, compiler and evaluation. python bench/loop.py [--long]

Prints one line per promise and exits with 1 when one is broken. Runs on two slow cores; --long adds the run of 2,000
tool calls with SIGKILL at random moments, and a run of 10,000 submissions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "optimizer"), *(str(ROOT / "tests" / name) for name in ("", "propose", "interact"))]

from quick import kernel, session  # noqa: E402
from served import asked_for_tools  # noqa: E402
from test_crash import content, drive, killed  # noqa: E402

from kopt.interact.tools import Toolbox  # noqa: E402
from kopt.journal import FILE  # noqa: E402
from kopt.propose.digest import digest  # noqa: E402
from kopt.propose.opening import opening  # noqa: E402
from kopt.propose.plateau import plan  # noqa: E402
from kopt.propose.templates import tokens  # noqa: E402
from kopt.run import Run  # noqa: E402

SUBMISSION_MS = 10.0
DIGEST_TOKENS = 8000
RESUME_S = 1.0
TOOLS_LIST_S = 2.0
PER_EPISODE = 12
"""Submissions an episode holds, so that one opening in so many is part of a submission's cost."""

broken: list[str] = []


def promise(what: str, value: float, limit: float, unit: str) -> None:
    ok = value < limit
    print(f"{'ok    ' if ok else 'BROKEN'} {what}: {value:.3g} {unit} (under {limit:g})", flush=True)
    if not ok:
        broken.append(what)


@contextmanager
def without_fsync() -> Iterator[None]:
    """The disk's share is measured apart: it is the machine's, not the loop's."""
    real, os.fsync = os.fsync, lambda fd: None
    try:
        yield
    finally:
        os.fsync = real


def overhead(folder: Path, count: int) -> None:
    """Submissions through the tools, with what a reply and an episode's opening cost, by their place in the run.

    In processor time, which is what it takes on an idle machine: the disk is left out, and the rest waits for nothing.
    """
    costs: list[float] = []
    draw = random.Random(0)
    with without_fsync(), session(folder) as live:
        box = Toolbox(live, "model:bench")
        for n in range(1, count + 1):
            score = None if draw.random() < 0.3 else 0.2 + draw.random() / 5 + n / count / 10
            source = kernel(score, extra=f"N = {n}\n" + "# a line of a kernel, as long as they are\n" * 60)
            judged = time.process_time()
            live._evaluator.evaluate(source)  # type: ignore[attr-defined]
            evaluation = time.process_time() - judged
            started = time.process_time()
            live.record("request", episode=1, turn=n, model="bench", purpose="episode", attempt=1, reserved=0.1)
            parts = [{"kind": "call", "name": "evaluate", "arguments": json.dumps({"source": source})}]
            live.record("reply", episode=1, turn=n, model="bench", purpose="episode", parts=parts, dollars=0.1)
            parent = live.run.incumbent.n if live.run.incumbent else None
            box.call("evaluate", {"source": source, "note": f"Idea {n}: because", "parent": parent}, key=f"1.{n}.1")
            if n % PER_EPISODE == 0:
                opening(live.run, plan(live.run, ("a", "b")))
            costs.append(time.process_time() - started - evaluation)
    tenth = max(1, count // 10)
    first, last = 1e3 * mean(costs[:tenth]), 1e3 * mean(costs[-tenth:])
    promise(f"overhead of a submission, the first {tenth} of {count}", first, SUBMISSION_MS, "ms")
    promise(f"overhead of a submission, the last {tenth} of {count}", last, SUBMISSION_MS, "ms")
    promise("growth from the first tenth to the last", last / first, 2.0, "times")
    run = Run.load(folder / "submissions" / "axpy-1")
    promise(f"digest after {count} submissions", tokens(digest(run)), DIGEST_TOKENS, "tokens")


def disk(folder: Path) -> None:
    """For comparison: an fsynced line of the journal on this disk."""
    times = []
    with session(folder) as live:
        for _ in range(100):
            started = time.perf_counter()
            live.record("notice", text="x")
            times.append(time.perf_counter() - started)
    print(f"       an fsynced event on this disk: {1e3 * median(times):.2f} ms, of which a submission has six")


def resume(folder: Path) -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        Run.load(folder)
        times.append(time.perf_counter() - started)
    size = (folder / FILE).stat().st_size / 1e6
    calls = Run.load(folder).charges.tool_calls
    promise(f"replay of a run of {calls} tool calls ({size:.1f} MB)", min(times), RESUME_S, "s")


def tools_list() -> None:
    """From the start of the process to the answer. Held against processor time: the machine may be busy otherwise."""
    walls, cpus = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            with asked_for_tools(Path(name)) as process:
                walls.append(time.perf_counter() - started)
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                cpus.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    print(f"       kopt mcp answers tools/list after {min(walls):.2f} s by the wall's clock, the best of three")
    promise("kopt mcp's processor time until it answers tools/list", min(cpus), TOOLS_LIST_S, "s")


def soak(folder: Path) -> None:
    """2,000 tool calls and about 150 submissions, killed at random moments, against the same run left in peace."""
    calls = 2000
    assert drive(folder / "whole", calls) == 0
    kills = killed(folder / "killed", calls, 20, seed=7)
    same = content(folder / "whole") == content(folder / "killed")
    run = Run.load(folder / "killed" / "submissions" / "axpy-1")
    print(f"       {calls} calls, {len(run.entries)} submissions, {kills} times SIGKILL")
    promise("differences between the journals", 0 if same else 1, 1, "journals")
    resume(run.folder)


def memory(folder: Path) -> None:
    """Resident memory of a process that drives 2,000 calls, at its end against after the first 200."""
    peaks = []
    for calls in (200, 2000):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/propose/loopback_run.py"), str(folder), str(calls)]
        )
        _, status, usage = os.wait4(process.pid, 0)
        assert status in (0, signal.SIGTERM)
        peaks.append(usage.ru_maxrss / 1024)
    promise("memory that 1,800 further calls add", max(0.0, peaks[1] - peaks[0]), 25, "MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="10,000 submissions, and the run that is killed")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT / "optimizer")
    with tempfile.TemporaryDirectory(prefix="kopt-bench-") as name:
        folder = Path(name)
        for part in ("overhead", "disk", "soak", "memory"):
            (folder / part).mkdir()
        overhead(folder / "overhead", 10_000 if options.long else 1500)
        disk(folder / "disk")
        tools_list()
        memory(folder / "memory")
        resume(folder / "memory" / "submissions" / "axpy-1")
        if options.long:
            soak(folder / "soak")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"       this process held {peak:.0f} MB at most")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
