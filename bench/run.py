"""The main job, as a newcomer runs it: when the first kernel passes, when all is done, and what memory it takes.

    python bench/run.py [--task fp8_gemm] [--times 1]

`kopt run TASK --modelled` with its default budget, in an empty workspace, from the start of the process. Memory is the
largest sum over the processes of the run (proportional set size, so that shared pages count once), looked at five
times a second. Goals for fp8_gemm on two cores: first pass within 30 s, done within 3 minutes and 2 GiB, every family
submitted, at least 30 trials, at least five structural classes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "optimizer"))

from kopt import content  # noqa: E402
from kopt.evaluate.worker.processes import family  # noqa: E402
from kopt.journal import FILE, read  # noqa: E402
from kopt.source import parse  # noqa: E402

FIRST_S, DONE_S, MEMORY_GIB = 30.0, 180.0, 2.0
TRIALS, CLASSES = 30, 5


def resident(pid: int) -> int:
    """Proportional set size of a process and all its descendants, bytes."""
    total = 0
    for member in family(pid):
        try:
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
        except OSError:
            continue  # it has ended
    return total


class Watch(threading.Thread):
    """The largest memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most, self._pid, self._end = 0, pid, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._end.wait(0.2):
            self.most = max(self.most, resident(self._pid))

    def stop(self) -> int:
        self._end.set()
        self.join()
        return self.most


def lines(process: subprocess.Popen[str], began: float) -> Iterator[tuple[float, str]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield time.perf_counter() - began, line


def once(task: str, folder: Path) -> bool:
    """Run it in a workspace and print what it took; whether a goal was missed."""
    (folder / "kopt.toml").touch()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "kopt", "run", task, "--modelled", "--name", "bench", "--workspace", str(folder)],
        env={**os.environ, "PYTHONPATH": str(HERE / "optimizer")}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    watch = Watch(process.pid)
    first = next((at for at, line in lines(process, began) if " passed " in line and "trial" not in line), None)
    for _ in lines(process, began):
        pass
    code = process.wait()
    done, memory = time.perf_counter() - began, watch.stop() / 2**30
    events = list(read(folder / "submissions" / "bench" / FILE))
    proposed = [e.payload["submission"] for e in events if e.type == "proposed"]
    trials = sum(e.type == "trial" for e in events)
    families = content.families(task, folder)
    entry = content.load_task(task, folder).entry
    sources = (folder / "submissions" / "bench" / "sources").glob("*.py")
    classes = {parse(path.read_text(encoding="utf-8"), entry).kind for path in sources}
    early = first if first is not None else float("inf")
    print(
        f"{task}: exit code {code}; first pass after {early:.1f} s ({early / FIRST_S:.2f} of the goal), "
        f"done after {done:.0f} s ({done / DONE_S:.2f}), {memory:.2f} GiB ({memory / MEMORY_GIB:.2f}); "
        f"{len(proposed)} submissions of {len(families)} families in {len(classes)} structural classes, {trials} trials"
    )
    return (
        code != 0 or early > FIRST_S or done > DONE_S or memory > MEMORY_GIB
        or len(proposed) < len(families) or trials < TRIALS or len(classes) < CLASSES
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="fp8_gemm")
    parser.add_argument("--times", type=int, default=1)
    asked = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    missed = False
    for _ in range(asked.times):
        with tempfile.TemporaryDirectory() as name:
            missed |= once(asked.task, Path(name))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
