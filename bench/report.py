"""Reports and live pages: how long they take, what they weigh, and whether memory stays flat.

    python bench/report.py              150 submissions: under 2 s and 1.5 MB; 10,000: under 10 s; first paint and a
    python bench/report.py --quick      live update: under 1 s; memory of server and page: flat. --quick: no 10,000

Exits with 1 when a limit is missed. Needs Chromium, as the tests of pages do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE / "optimizer"), str(HERE / "tests"), str(HERE / "tests" / "report")]

import nights  # noqa: E402  # the nights that the tests of pages are made of
from browser import chromium  # noqa: E402
from made_runs import Made  # noqa: E402

from kopt import content  # noqa: E402
from kopt.journal import FILE, Journal  # noqa: E402

KOPT = (sys.executable, "-m", "kopt")
ENV = {**os.environ, "PYTHONPATH": str(HERE / "optimizer")}
PAGE_MB, PAINT_S, UPDATE_S, GROWTH_MB = 1.5, 1.0, 1.0, 8.0
missed: list[str] = []


def within(name: str, value: float, limit: float) -> None:
    if value > limit:
        missed.append(f"{name}: {value:.2f}, limit {limit:g}")


def reports(workspace: Path, id: str, times: int, seconds: float, mb: float | None = None) -> Path:
    """`kopt report`, as a user runs it: seconds on the clock and of processors, bytes of the page."""
    walls, cpus = [], []
    for _ in range(times):
        before, began = os.times(), time.perf_counter()
        subprocess.run([*KOPT, "report", id, "-w", str(workspace)], check=True, env=ENV, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append(time.perf_counter() - began)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    page = workspace / "reports" / id / "index.html"
    print(
        f"report of {id}: {min(walls):.2f} s at best, {median(walls):.2f} s at the median of {times} "
        f"({min(cpus):.2f} s of processors in two processes), {page.stat().st_size / 1e6:.2f} MB"
    )
    within(f"seconds for {id}", min(walls), seconds)
    if mb is not None:
        within(f"MB of {id}", page.stat().st_size / 1e6, mb)
    return page


def paints(browser: Any, page: Path) -> None:
    """Opening a page from disk, and what it takes to use it."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    began = time.perf_counter()
    tab.goto(page.as_uri())
    loaded = time.perf_counter() - began
    first = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    began = time.perf_counter()
    tab.evaluate("document.querySelector('#table th[data-key=score] button').click(), document.body.offsetHeight")
    sorted_in = time.perf_counter() - began
    within("seconds to first paint", first, PAINT_S)
    last = tab.locator("#tried-rows tr").count()
    began = time.perf_counter()
    tab.evaluate(f"location.hash = '#s{last // 2}'")
    tab.locator(f"#s{last // 2}.open").wait_for(timeout=60_000)
    opened_in = time.perf_counter() - began
    print(
        f"  in Chromium: first paint {first:.2f} s, loaded {loaded:.2f} s, sorted {sorted_in:.2f} s, "
        f"submission opened {opened_in:.2f} s"
    )
    tab.close()


@contextmanager
def viewing(workspace: Path) -> Iterator[tuple[str, int]]:
    """`kopt view`: its address and process."""
    with subprocess.Popen(
        [*KOPT, "view", "-w", str(workspace)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()
            process.wait(20)


def follows(browser: Any, workspace: Path, verdicts: int) -> None:
    """Seconds from a line in the journal to the page, and memory while the run grows."""
    folder = nights.night(workspace, 40, id="live", stop=None)
    task = content.load_task("fp8_gemm", workspace)
    with viewing(workspace) as (address, pid), Journal(folder / FILE) as journal:
        tab = browser.new_page()
        tab.goto(f"{address}runs/live")
        tab.locator("#live", has_text="live").wait_for()
        session = tab.context.new_cdp_session(tab)
        writer = nights.Writer(journal, folder, task, nights.random.Random(1))
        took, memory = [], []
        for i in range(verdicts):
            n = 41 + i
            writer.submission(n, Made(0.3 + 0.0004 * i))
            began = time.perf_counter()
            tab.locator(f"#r{n}.passed").wait_for(state="attached", timeout=60_000)
            took.append(time.perf_counter() - began)
            if i % (verdicts // 4) == verdicts // 4 - 1:
                session.send("HeapProfiler.collectGarbage")
                heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
                memory.append((n, _rss(pid), heap))
        most = sorted(took)[int(0.95 * len(took))]
        print(
            f"live update: {median(took):.2f} s from line to page at the median, "
            f"{most:.2f} s at the 95th percentile of {verdicts}"
        )
        print("  memory: " + "; ".join(f"{n} submissions: server {a:.0f} MB, page {b:.1f} MB" for n, a, b in memory))
        within("seconds of a live update", median(took), UPDATE_S)
        for name, of in (("server", 1), ("page", 2)):
            within(f"MB that the {name} grew by", memory[-1][of] - memory[0][of], GROWTH_MB)
        tab.close()


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the run of 10,000 submissions")
    parser.add_argument("--verdicts", type=int, default=80, help="verdicts that the live page follows")
    asked = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        workspace = Path(name)
        (workspace / "kopt.toml").write_text("")
        nights.night(workspace, 150, seed=3, id="night-150")
        paints(browser, reports(workspace, "night-150", 5, 2.0, PAGE_MB))
        if not asked.quick:
            nights.night(workspace, 10_000, seed=3, id="night-10000")
            paints(browser, reports(workspace, "night-10000", 2, 10.0))
        follows(browser, workspace, asked.verdicts)
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
