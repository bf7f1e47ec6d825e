"""Compares predicted with published and measured times, and scores what no constant of the model was fitted to.

    PYTHONPATH=optimizer python3 bench/predict.py                          published points and bench/data/sweep-*.json
    PYTHONPATH=optimizer python3 bench/predict.py --data my-sweep.json     other measurements
    PYTHONPATH=optimizer python3 bench/predict.py --run submissions/fp8_gemm-h200
                                                                           what a run predicted, then measured;
                                                                           --again: what is predicted now
    PYTHONPATH=optimizer python3 bench/predict.py --fit l2_tbs,overlap     look for better constants on the fitted rows

A data file is JSON {"machine"?, "rows": [...]} or CSV with the same columns: family, parameters (JSON), us or tflops,
and shape (a timing shape of the task) or dims, target unless the machine says it, source. Rows with "failed" are left
out. Compiling and counting takes seconds a point and is kept in --cache; the toolchain that measured can be put in
front with --toolchain, because spills differ between versions of Triton.
"""

from __future__ import annotations

import argparse
import csv
import json
import pickle
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import geometric_mean as mean
from typing import Any

from kopt import content
from kopt.evaluate import hooks
from kopt.evaluate.evaluator import Evaluator, with_timing
from kopt.evaluate.predict.constants import FITTED, Constants, calibrated, constants
from kopt.evaluate.predict.estimate import Call, estimate
from kopt.evaluate.predict.stage import Predict
from kopt.evaluate.score import score
from kopt.evaluate.stage import Case
from kopt.evaluate.trace import Trace
from kopt.evaluate.workers import Workers
from kopt.machine.products import product
from kopt.records import Outcome, Shape, Submission, digest
from kopt.run import Run

ROOT = Path(__file__).resolve().parent.parent
FITTED_FAMILIES = frozenset({"naive", "k_major", "tma"})
"""Families of the H200 sweep that `constants.FITTED` was fitted to. All others are held out of the fit; the form of the
model (load latency, spills that miss L1) was chosen with every row in view."""


@dataclass
class Point:
    """One measured or published time, and what the model is to be given for it."""

    family: str
    parameters: dict[str, Any]
    dims: dict[str, int]
    shape: str
    target: str
    us: float
    label: str
    fitted: bool
    call: Call | None = None
    launches: Any = None
    why: str = ""
    """Why there is no prediction."""

    def predict(self, k: Constants) -> float:
        assert self.call is not None
        target = product(self.target)
        return estimate(self.call, self.launches, target, k, calibrated(target)).us


def read(path: Path, task: Any) -> list[Point]:
    """UsageError-like SystemExit when a row lacks what it needs."""
    machine: dict[str, Any] = {}
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        for row in rows:
            row["parameters"] = json.loads(row.get("parameters") or "{}")
    else:
        record = json.loads(path.read_text())
        rows, machine = record["rows"], record.get("machine", {})
    here = next((gpu.get("product") for gpu in machine.get("gpus", ())), None)
    shapes = {shape.name: dict(shape.dims) for shape in task.timing}
    points = []
    for number, row in enumerate(rows, 1):
        if row.get("failed") or float(row.get("error") or 0) > 1e-2:
            continue
        dims, target = row.get("dims"), row.get("target") or here
        if not isinstance(dims, dict):
            dims = shapes.get(row.get("shape", ""))
        if dims is None or target is None:
            sys.exit(f"{path}, row {number}: needs a timing shape or dims, and a target; it has {sorted(row)}")
        flops = 2.0 * dims["M"] * dims["N"] * dims["K"]
        us = float(row["us"]) if row.get("us") else flops / float(row["tflops"]) * 1e-6
        name = row.get("shape") or "x".join(str(n) for n in dims.values())
        fitted = path.name == "sweep-h200.json" and row["family"] in FITTED_FAMILIES
        points.append(
            Point(row["family"], row["parameters"], dims, name, target, us, row.get("label", ""), fitted)
        )  # fmt: skip
    return points


def prepare(points: Sequence[Point], task: Any, cache: Path | None, toolchain: str) -> None:
    """Compile and count what the points need, all shapes of one parameter point together."""
    known: dict[Any, Any] = {}
    if cache is not None and cache.is_file():
        known = pickle.loads(cache.read_bytes())
    groups: dict[Any, list[Point]] = defaultdict(list)
    for point in points:
        groups[point.family, json.dumps(point.parameters, sort_keys=True), point.target].append(point)
    with Workers({"PYTHONPATH": toolchain} if toolchain else None) as workers, tempfile.TemporaryDirectory() as store:
        trace, predict = Trace(workers, Path(store)), Predict(workers, Path(store))
        for number, ((family, parameters, target), members) in enumerate(groups.items(), 1):
            source = (ROOT / "kernels" / task.name / f"{family}.py").read_text()
            key = (digest(source), parameters, target, tuple(sorted({m.shape for m in members})), toolchain)
            if key not in known:
                print(f"\r{number} of {len(groups)}: {family} {parameters}"[:110].ljust(110), end="", file=sys.stderr)
                shapes = [Shape(name=name, dims=dims) for name, dims in {m.shape: m.dims for m in members}.items()]
                submission = Submission(n=1, sha=digest(source), origin="bench")
                case = Case(with_timing(task, shapes), submission, source, product(target), json.loads(parameters))
                traced = trace.run(case, {})
                if traced.outcome is Outcome.PASSED:
                    counted = predict.run(case, {"trace": traced}).artifacts.get("counted", {})
                    known[key] = (dict(traced.artifacts), counted, "")
                else:
                    known[key] = ({}, {}, str(traced.findings[0]))
                if cache is not None:
                    cache.parent.mkdir(parents=True, exist_ok=True)
                    cache.write_bytes(pickle.dumps(known))
            artifacts, counted, why = known[key]
            for point in members:
                point.why, point.launches = why or "not counted", counted.get(point.shape)
                if point.launches is not None:
                    cost = hooks.cost(task, Shape(name=point.shape, dims=point.dims))
                    calls, kernels = artifacts["calls"], artifacts["kernels"]
                    point.call = Call(point.shape, cost, task.score.peak, calls[point.shape], kernels)
    print("\r".ljust(112), end="\r", file=sys.stderr)


def table(points: Iterable[Point]) -> None:
    for point in points:
        mark = "*" if point.fitted else " "
        flops = 2e-6 * point.dims["M"] * point.dims["N"] * point.dims["K"]
        head = (
            f"{mark} {point.label or point.family:38} {point.target:6} {point.shape:16} {flops / point.us:7.0f} TFLOPS"
        )
        k = constants(product(point.target))
        if point.call is None or k is None:
            print(f"{head}   no prediction: {point.why}")
            continue
        us = point.predict(k)
        print(f"{head}   predicted {flops / us:7.0f}   time x {us / point.us:.2f}")


def scores(points: Sequence[Point]) -> None:
    """Rank correlation and errors by shape, of held-out rows alone."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        k = constants(product(point.target))
        if point.call is not None and k is not None and not point.fitted:
            groups[f"{point.target} {point.shape}"].append((point.us, point.predict(k)))
    report(groups)


def recorded(folder: Path, *, again: bool, verbose: bool) -> dict[str, list[tuple[float, float]]]:
    """(measured, predicted) by shape, of all submissions and trials of a run that have both: as journaled, or predicted
    `again` by the model and the compiler at hand. `verbose`: print every point, the best measured first.

    Guesses are apart: of what cannot be counted, such as Gluon.
    """
    run, pairs = Run.load(folder), defaultdict[str, list[tuple[float, float]]](list)
    points: list[tuple[float, str]] = []
    task = content.load_task(run.meta.task, ROOT)
    task = with_timing(task, run.meta.shapes) if run.meta.shapes else task
    with Evaluator(task, target=run.meta.target, shapes=run.meta.shapes) if again else nullcontext() as evaluator:
        for entry in run:
            verdict = run.verdict(entry.n)
            trials = [run.trial(entry.n, row.n) for row in entry.trials]
            asked = [({}, verdict)] if verdict else []
            for parameters, found in (*asked, *((dict(t.parameters), t) for t in trials)):
                if not found.measurements:
                    continue
                predictions = found.predictions
                if evaluator is not None:
                    source = run.source(entry.n)
                    predictions = evaluator.try_parameters(entry.submission, source, parameters, 1).predictions
                predicted = {p.shape: p for p in predictions}
                for m in found.measurements:
                    if p := predicted.get(m.shape):
                        kind = "guessed" if any(text.startswith("rough") for text in p.warnings) else "counted"
                        pairs[f"{m.shape}, {kind}"].append((m.host_us.value, p.us))
                if found.score is None:
                    continue
                model = score(task, product(run.meta.target), predictions)
                ratios = [m.baseline_ratio.value for m in found.measurements if m.baseline_ratio]
                vendor = f"  x vendor {mean(ratios):.3f}" if ratios else ""
                what = ", ".join(f"{k}={v}" for k, v in parameters.items()) or "as submitted"
                text = f"predicted {model or 0.0:6.1%}  measured {found.score:6.1%}{vendor}  #{entry.n} {what}"
                points.append((found.score, text))
    for _, text in sorted(points, reverse=True) if verbose else ():
        print(f"  {text}")
    return pairs


def report(groups: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for name, pairs in groups.items():
        errors = sorted((abs(log(got / want)) for want, got in pairs))
        pick = min(pairs, key=lambda pair: pair[1])[0] / min(want for want, _ in pairs)
        print(
            f"  {name:24} {len(pairs):4} points   rank correlation {spearman(pairs):.3f}   median error "
            f"{exp(errors[len(errors) // 2]) - 1:5.1%}   worst x {exp(errors[-1]):.2f}   "
            f"the best predicted takes x {pick:.3f} of the best"
        )


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation; ties share their mean rank."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    if len(pairs) < 2:
        return float("nan")
    a, b = (ranks(column) for column in zip(*pairs, strict=True))
    mean = (len(pairs) - 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    bottom = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return top / bottom if bottom else float("nan")


def fit(points: Sequence[Point], names: Sequence[str], target: str) -> None:
    """Coordinate search on the mean absolute log error of the fitted rows."""
    k = constants(product(target))
    mine = [p for p in points if p.fitted and p.call is not None and p.target == target]
    if k is None or not mine:
        sys.exit(f"nothing to fit to for {target}")
    if unknown := [name for name in names if not hasattr(k, name)]:
        sys.exit(f"no constant is called {', '.join(unknown)}")

    def loss(trial: Constants) -> float:
        return sum(abs(log(p.predict(trial) / p.us)) for p in mine) / len(mine)

    best = loss(k)
    print(f"{len(mine)} rows, mean error {best:.4f}")
    for step in (1.25, 1.1, 1.04):
        for name in names:
            for factor in (step, 1 / step):
                while (found := loss(trial := replace(k, **{name: getattr(k, name) * factor}))) < best - 1e-5:
                    k, best = trial, found
    print(f"mean error {best:.4f} with " + ", ".join(f"{name}={getattr(k, name):.4g}" for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", help="measurements; bench/data/sweep-*.json by default")
    parser.add_argument("--cache", type=Path, help="keep compiled facts and counts here")
    parser.add_argument("--toolchain", default="", help="PYTHONPATH of the Triton that measured")
    parser.add_argument("--points", type=int, default=0, help="only so many parameter points of each family; 0 is all")
    parser.add_argument("--fit", default="", help="comma-separated names of constants")
    parser.add_argument("--run", type=Path, help="a run's folder, in place of measurements")
    parser.add_argument("--again", action="store_true", help="with --run: predict its points again, as of now")
    parser.add_argument("--verbose", action="store_true", help="every row of the sweeps, or point of the run")
    arguments = parser.parse_args()
    if arguments.run:
        report(recorded(arguments.run, again=arguments.again, verbose=arguments.verbose))
        return
    task = content.load_task("fp8_gemm", ROOT)
    published = read(ROOT / "bench" / "data" / "published.json", task)
    files = arguments.data or sorted((ROOT / "bench" / "data").glob("sweep-*.json"))
    measured = few([point for file in files for point in read(file, task)], arguments.points)
    prepare([*published, *measured], task, arguments.cache, arguments.toolchain)
    print("Published (other cards, clocks and harnesses; none was fitted to)")
    table(published)
    if arguments.verbose:
        print("\nMeasured (* fitted to)")
        table(measured)
    held = sum(not p.fitted for p in measured)
    print(f"\nMeasured: {len(measured)} rows, of which {held} were not fitted to; those alone are scored")
    print(f"  fitted constants: {', '.join(sorted(FITTED))}; the model's form was chosen with all rows in view")
    scores(measured)
    if arguments.fit:
        fit(measured, arguments.fit.split(","), measured[0].target)


def few(points: Sequence[Point], limit: int) -> list[Point]:
    """The first `limit` parameter points of each family, with all of their shapes."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    key: Callable[[Point], str] = lambda point: json.dumps(point.parameters, sort_keys=True)  # noqa: E731
    for point in points:
        seen[point.family][key(point)] = None
    keep = {family: set(list(found)[:limit] if limit else found) for family, found in seen.items()}
    return [point for point in points if key(point) in keep[point.family]]


if __name__ == "__main__":
    main()
