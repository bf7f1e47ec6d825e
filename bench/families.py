"""What every family of a task compiles to on every architecture, without a GPU: python bench/families.py [--points 24]

For each family and target: the default point, and the best prediction among the points that compile clean (no spills,
no MMA that waits for the one before) with a tile of at least 128x128, beside the best prediction of all. Prints a table
in Markdown and one line for every promise that is broken, and exits with 1 if there is any: the default compiles and
shows FP8 MMA; above the first rung, a clean large tile is within 10 % of the best.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "optimizer")]

from kopt import content  # noqa: E402
from kopt.evaluate.evaluator import Evaluator  # noqa: E402
from kopt.records import Status, Submission, digest  # noqa: E402
from kopt.source import KernelSource, parse  # noqa: E402

TARGETS = ("h200", "b200", "rtx-pro-6000")
COLUMNS = (
    "file",
    "target",
    "default",
    "registers",
    "spills",
    "shared memory (B)",
    "MMA",
    "best",
    "best clean large tile",
)
FP8 = ("QGMMA", "UTCQMMA", "QMMA")
NEAR = 0.9
"""Of the best prediction."""
LARGE = 128
"""Rows and columns of a tile that count as large."""


class Row(NamedTuple):
    """One point of one family on one target."""

    family: str
    target: str
    parameters: dict[str, Any]
    status: str
    score: float | None
    clean: bool
    large: bool
    facts: dict[str, Any]


def points(source: KernelSource, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The default, then a seeded sample of the grid in which large tiles are as frequent as all others."""
    yield dict(source.defaults)
    names = list(source.tune)
    grid = [dict(zip(names, values, strict=True)) for values in product(*source.tune.values())]
    random.Random(seed).shuffle(grid)
    big, rest = [p for p in grid if is_large(p)], [p for p in grid if not is_large(p)]
    chosen = big[: -(-count // 2)]
    yield from (point for point in chosen + rest[: count - len(chosen)] if point != source.defaults)


def neighbours(source: KernelSource, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Points that differ in one parameter."""
    for name, choices in source.tune.items():
        yield from ({**point, name: choice} for choice in choices if choice != point.get(name))


def is_large(point: dict[str, Any]) -> bool:
    return min(point.get("BLOCK_M", 0), point.get("BLOCK_N", 0)) >= LARGE


def judged(
    evaluator: Evaluator, family: str, submission: Submission, source: KernelSource, point: dict[str, Any]
) -> Row:
    trial = evaluator.try_parameters(submission, source.text, point, 1)
    facts = dict(trial.facts)
    spilled = facts.get("spill_stores", 0) + facts.get("spill_loads", 0)
    clean = trial.status is Status.PASSED and not spilled and (facts.get("waits_per_mma") or 0.0) < 1.0
    reason = "" if trial.status is Status.PASSED else str(next(iter(trial.findings), ""))
    return Row(
        family,
        evaluator.target.key,
        point,
        str(trial.status),
        trial.score,
        clean,
        is_large(point),
        {**facts, "reason": reason},
    )


def told(rows: Sequence[Row], mma: str, first: bool) -> tuple[str, list[str]]:
    """The row of the table for a family on a target, and what it breaks. `first` is the ladder's first rung,
    `mma` the default's matrix instructions."""
    default = rows[0]
    name, broken = f"{default.family} on {default.target}", []
    passed = [row for row in rows if row.score]
    best = max(passed, key=lambda row: row.score or 0.0, default=None)
    large = max((row for row in passed if row.clean and row.large), key=lambda row: row.score or 0.0, default=None)
    if default.status != "passed":
        broken.append(f"{name}: the default is a {default.status}: {default.facts['reason'][:200]}")
    ratio = 0.0
    if best is not None and large is not None:
        ratio = (large.score or 0.0) / (best.score or 1.0)
    if not first and ratio < NEAR:
        broken.append(
            f"{name}: the best clean tile of {LARGE}x{LARGE} or more reaches {ratio:.0%} of the best prediction"
        )
    f = default.facts
    cells = [
        f"`{default.family}.py`", default.target, shown(default.score) if default.score else default.status,
        str(f.get("registers", "")), str(f.get("spill_stores", "")), f"{f['shared']:,}" if "shared" in f else "",
        mma,
        shown(best.score) if best else "", f"{brief(large.parameters)}: {shown(large.score)}" if large else "none",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |", broken


def shown(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


def brief(point: dict[str, Any]) -> str:
    return "x".join(str(point.get(f"BLOCK_{axis}", "?")) for axis in "MNK") + "".join(
        f", {value} {name.removeprefix('NUM_').lower()}"
        for name, value in point.items()
        if name in ("NUM_WARPS", "NUM_STAGES")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="fp8_gemm")
    parser.add_argument("--points", type=int, default=24, help="of each family and target, beside the default")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--families", nargs="*", help="all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for all rows")
    options = parser.parse_args()
    task = content.load_task(options.task, ROOT)
    every: list[Row] = []
    broken: list[str] = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for target in options.targets:
        with Evaluator(task, target=target) as evaluator:
            for path in content.families(task, ROOT):
                if options.families and path.stem not in options.families:
                    continue
                source = parse(path.read_text(encoding="utf-8"), task.entry)
                if source.archs and evaluator.target.arch not in source.archs:
                    continue
                submission = Submission(n=1, sha=digest(source.text, {}), origin="user")
                tried = partial(judged, evaluator, path.stem, submission, source)
                rows = [tried(point) for point in points(source, options.points, options.seed)]
                best = max(rows, key=lambda row: row.score or 0.0)
                if options.points and not (best.clean and best.large):
                    rows += [tried(point) for point in neighbours(source, best.parameters)]
                    wanted = max(rows, key=lambda row: (row.clean and row.large, row.score or 0.0))
                    rows += [tried(point) for point in neighbours(source, wanted.parameters)]
                every += rows
                kernels = evaluator.kernels(submission, source.text).values()
                mma = ", ".join(f"{name} x{n}" for kernel in kernels for name, n in kernel.mma.items())
                line, found = told(rows, mma, first=source.rung == 1)
                if rows[0].status == "passed" and not any(name in mma for name in FP8):
                    found.append(f"{path.stem} on {target}: no FP8 MMA, but {mma or 'none'}")
                broken += found
                print(line, flush=True)
    for line in broken:
        print(f"BROKEN {line}")
    if options.out:
        options.out.write_text(json.dumps([row._asdict() for row in every], indent=1) + "\n", encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
