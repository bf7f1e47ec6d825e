"""How long `kopt --help` and `kopt runs` take, and whether they import what they must not.

    python bench/startup.py [--runs 50]

Each command runs in a fresh process with warm file caches. The goal is held against processor time, the least of
several: on an idle machine that is what one waits, and the wall's clock shows what else this one was doing. The ratio
to an empty Python process carries over to other machines.
"""

from __future__ import annotations

import argparse
import os
import resource
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


def measured(
    arguments: list[str], folder: Path, environment: dict[str, str], repeat: int
) -> tuple[float, float, str]:  # fmt: skip
    """Least processor seconds and median wall seconds of a Python process once it is warm, and its standard error."""
    cpu, wall, said = [], [], ""
    for _ in range(repeat + 1):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - start)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        said = done.stderr.strip()
    return min(cpu[1:]), statistics.median(wall[1:]), said


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
        empty, _, _ = measured(["-c", "pass"], workspace, environment, options.repeat)
        print(f"python -c pass: {empty:.3f} s of processor time")
        code = CODE.format(forbidden=FORBIDDEN)
        for arguments in (["--version"], ["--help"], ["runs"], ["runs", "--json"], ["show", "last"]):
            cpu, wall, said = measured(["-c", code, *arguments], workspace, environment, options.repeat)
            late |= arguments[0] in ("--help", "runs") and cpu > GOAL
            late |= said != "imported:"
            print(
                f"kopt {' '.join(arguments):<12} {cpu:.3f} s of processor time ({cpu / GOAL:.2f} of the goal, "
                f"{cpu / max(empty, 0.001):.0f}x an empty process), wall's median {wall:.3f} s; "
                f"{'imports nothing heavy' if said == 'imported:' else said}"
            )
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
