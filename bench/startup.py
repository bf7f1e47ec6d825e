"""How long `kopt --help` and `kopt runs` take, and whether they import what they must not.

    python bench/startup.py [--runs 50]

Each command runs in a fresh process with warm file caches; the least of several times is what the command itself
takes, the median what it took beside everything else on this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = str(HERE.parent / "optimizer")
sys.path[:0] = [str(HERE.parent / "tests"), PACKAGE]

GOAL = 0.3
FORBIDDEN = ("torch", "triton", "optuna", "matplotlib")
CODE = """
import atexit, sys
atexit.register(lambda: print("imported:", *sorted(set({forbidden!r}) & set(sys.modules)), file=sys.stderr))
from kopt.cli.app import main; main()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs in the workspace that is listed")
    parser.add_argument("--repeat", type=int, default=10)
    options = parser.parse_args()
    import made_runs

    late = False
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        for i in range(options.runs):
            made_runs.write(workspace, made_runs.climb(40, i), id=f"run-{i:03}", created=float(i))
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": PACKAGE}
        print(f"goal {GOAL} s; {options.runs} runs of 40 submissions each")
        for arguments in (["--version"], ["--help"], ["runs"], ["runs", "--json"], ["show", "last"]):
            times, said = [], ""
            for _ in range(options.repeat + 1):
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", CODE.format(forbidden=FORBIDDEN), *arguments],
                    cwd=workspace, env=environment, capture_output=True, text=True, check=True,
                )  # fmt: skip
                times.append(time.perf_counter() - start)
                said = done.stderr.strip()
            warm = times[1:]
            measured = arguments[0] in ("--help", "runs")
            late |= measured and min(warm) > GOAL
            print(
                f"kopt {' '.join(arguments):<12} least {min(warm):.3f} s ({min(warm) / GOAL:.2f} of the goal), "
                f"median {statistics.median(warm):.3f} s, first {times[0]:.3f} s; "
                f"{'imports nothing heavy' if said == 'imported:' else said}"
            )
            late |= said != "imported:"
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
