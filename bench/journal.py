"""Replays a long journal: time, and memory against the size of the sources.

python bench/journal.py            # 100,000 events; the limit is 2 s
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from made_runs import Made, judged, meta  # the runs that the tests are made of

from kopt.journal import FILE, Journal
from kopt.meta import create
from kopt.records import Submission, Trial

CHILD = """
import resource, sys, time
from pathlib import Path
from kopt.run import Run
began = time.perf_counter()
run = Run.load(Path(sys.argv[1]))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(run.entries))
"""


def write(folder: Path, events: int, source_bytes: int) -> None:
    """Ten trials a submission, as the search makes them; fsync is skipped, since writing is not what is timed."""
    create(folder, meta())
    source = "#" * source_bytes
    n = 0
    with Journal(folder / FILE) as log:
        log_fsync = os.fsync
        os.fsync = lambda fd: None
        written = 0
        while written < events:
            n += 1
            one = Made(score=0.3 + n % 100 / 1000)
            submission = Submission(n=n, sha=f"{n:064x}", origin="search", note="a note of ordinary length")
            (folder / "sources" / submission.file).write_text(source)
            log.append("proposed", submission=submission.model_dump(mode="json"))
            verdict = judged(n, submission.sha, one)
            log.append("verdict", verdict=verdict.model_dump(mode="json"), reason="")
            for i in range(1, 11):
                trial = Trial(
                    n=i, submission=n, parameters={"BLOCK_M": 64 * i, "BLOCK_N": 128, "NUM_WARPS": 8}, status="passed",
                    score=0.4, evidence="modelled", predictions=verdict.predictions * 4,
                    facts={"registers": 168, "shared": 196608, "occupancy": 1},
                )  # fmt: skip
                log.append("trial", trial=trial.model_dump(mode="json"))
            written += 12
        os.fsync = log_fsync


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"{'events':>8} {'source':>8} {'journal':>9} {'replay':>8} {'of 2 s':>7} {'memory':>9}")
    for source_bytes in (1_000, 100_000):
        events = arguments.events if source_bytes == 1_000 else arguments.events // 10
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "run"
            began = time.perf_counter()
            write(folder, events, source_bytes)
            size = (folder / FILE).stat().st_size / 1e6
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True
            )
            seconds, memory, _ = (float(x) for x in done.stdout.split())
            row = f"{events:8} {source_bytes:8} {size:6.0f} MB {seconds:6.2f} s {seconds / 2:6.2f}x"
            print(f"{row} {memory:6.0f} MB", f"  (written in {time.perf_counter() - began:.0f} s)", file=sys.stdout)


if __name__ == "__main__":
    main()
