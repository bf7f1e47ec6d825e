"""The section `run` of bench/judge.py: a search alone, by the clock, and what its best kernel reaches.

On a GPU the run's folder stays where it was written, for kopt show, report and publish.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from predict import recorded, report

from kopt.records import Measurement, Parameters
from kopt.run import Run

ROOT = Path(__file__).resolve().parents[1]
PEAK = 0.713
"""Part of the data sheet's peak to reach at one timing shape: the best of the run to beat."""
BESIDE = 0.97
"""Of the vendor library's speed, as a geometric mean over all timing shapes."""


class Held(NamedTuple):
    """What a run's finale verified."""

    folder: Path
    source: str
    parameters: Parameters
    measurements: tuple[Measurement, ...]
    reason: str
    times: str
    """What stands behind every shape."""

    @property
    def peak(self) -> float:
        return max((m.utilization.value for m in self.measurements if m.utilization), default=0.0)

    @property
    def beside(self) -> float:
        """Geometric mean of the ratios to the baseline; 0 where a shape lacks one."""
        ratios = [m.baseline_ratio.value if m.baseline_ratio else 0.0 for m in self.measurements]
        return geometric_mean(ratios) if ratios and min(ratios) > 0 else 0.0


def search(workspace: Path, minutes: float, device: str) -> Held:
    """`kopt run fp8_gemm` in a workspace of its own; on the CPU (device ""), one submission, modelled."""
    asked = (
        ["--minutes", str(minutes), "--gpu", device]
        if device
        else ["--submissions", "1", "--trials", "1", "--modelled"]
    )
    command = [sys.executable, "-m", "kopt", "run", "fp8_gemm", "--name", "acceptance", "-w", str(workspace), *asked]
    print(" ".join(command[1:]), flush=True)
    # The same kopt as this script's, installed or not.
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "optimizer")})
    folder = workspace / "submissions" / "acceptance"
    run = Run.load(folder)
    if not device:
        best = list(run)[-1]
        return Held(folder, run.source(best.n), best.submission.parameters, (), "modelled: nothing was measured", "")
    finale = run.finale
    if finale is None or finale.winner is None:
        raise RuntimeError(f"{folder}: no finale verified a kernel: {finale.reason if finale else run.errors}")
    won = run.entry(finale.winner)
    times = f"{finale.quads} quads a shape, the best of {finale.submissions} submissions"
    return Held(
        folder, run.source(won.n), won.submission.parameters, finale.measurements, f"#{won.n}, {finale.reason}", times
    )


def predicted(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Prints rank correlation and median error of the predictions that the run made before it measured; the (measured,
    predicted) microseconds of all of its points, by shape."""
    pairs = recorded(folder, again=False, verbose=False)
    report(pairs)
    return pairs
