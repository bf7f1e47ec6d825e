"""What a worker process costs: python bench/workers.py [--jobs N]

Times a trivial job on a warm server (fork, walls, reply, burial), with and without walls, beside the bare cost of the
same work: a fresh interpreter that imports torch and triton, and a fork of one that already has.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kopt.evaluate.workers import Workers

LIMIT_MS = 50.0
"""What a trivial job may cost on a warm server."""

FORK = """
import gc, os, time, statistics, torch, triton
gc.freeze()
def once():
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    return 1e3 * (time.perf_counter() - started)
print(statistics.median(once() for _ in range(30)))
"""


def echo(payload: dict[str, object], folder: Path, ask: object) -> dict[str, object]:
    return payload


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=40)
    jobs = parser.parse_args().jobs
    thread_limits = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    imports = milliseconds(lambda: subprocess.run([sys.executable, "-c", "import torch, triton"], check=True))
    fork = float(
        subprocess.run([sys.executable, "-c", FORK], env=thread_limits, capture_output=True, check=True).stdout
    )
    here = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parent))))
    with tempfile.TemporaryDirectory() as name, Workers({"PYTHONPATH": here}) as workers:
        folder = Path(name)
        start = milliseconds(workers.toolchain)

        def job(trusted: bool) -> None:
            reply = workers.run("compile", "workers:echo", {"a": 1}, folder=folder, deadline=10, trusted=trusted)
            assert reply.value == {"a": 1}, reply

        job(trusted=False)
        walled = statistics.median(milliseconds(lambda: job(trusted=False)) for _ in range(jobs))
        open_ = statistics.median(milliseconds(lambda: job(trusted=True)) for _ in range(jobs))
    print(f"import torch, triton in a fresh interpreter   {imports:8.1f} ms")
    print(f"start of a fork server                        {start:8.1f} ms   {start / imports:5.2f} x the import")
    print(f"fork and exit with torch and triton loaded    {fork:8.1f} ms")
    print(f"trivial trusted job                           {open_:8.1f} ms   {open_ / fork:5.2f} x the fork")
    print(f"trivial untrusted job, all walls              {walled:8.1f} ms   {walled / open_:5.2f} x the trusted one")
    print(f"limit {LIMIT_MS:g} ms: {'held' if walled < LIMIT_MS else 'MISSED'}")
    return 0 if walled < LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
