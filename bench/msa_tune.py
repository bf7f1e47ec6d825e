"""Parameter points of the MSA families on the GPU at hand, timed at chosen shapes; families checked at all shapes.

    python bench/msa_tune.py [--only msa_attend/kv_outer@128k-random,msa_index/fused@chunk-128k] [--points 24]
        [--vary PDL,LAST] [--check]

Not the judge: the kernels are trusted here. A point's time is the median of replays of a CUDA graph, L2 flushed before
each, and its result is compared with the task's reference on random rows, or by the task's own check. All points are
compiled first, by as many processes as there are cores. --vary takes all values of these parameters in place of a
sample, with the others at their defaults. --check leaves the points out and compares every family at its defaults at
every shape and family of inputs of its task, the large ones included.

Without a GPU: a rehearsal at the sizes of Triton's interpreter, without times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import product as grid_of
from pathlib import Path
from typing import Any

from msa_clock import HERE, Clock, family, rehearse

from kopt import content
from kopt.evaluate import hooks
from kopt.machine.detect import detect
from kopt.records import Shape, Task

DEFAULT = (
    "msa_attend/q_outer@128k-random,msa_attend/union@128k-m3_like,msa_attend/union@128k-random,"
    "msa_attend/kv_outer@128k-random,msa_attend/kv_outer@128k-m3_like,msa_index/fused@chunk-128k,"
    "msa_decode/split_k@b1-1m,msa_decode/split_k@b32-32k,msa_decode_e4m3/split_k@b1-1m"
)
ROWS = 96
"""Of a dimension that can be checked index by index."""


class Problem:
    """One shape with one family of inputs: inputs, outputs, and what is wrong with what a kernel writes there."""

    def __init__(self, task: Task, shape: Shape, inputs: str, device: str) -> None:
        import torch

        self.task, self.shape, self.family, self.device = task, shape, inputs, device
        self.hooks = hooks.load(task)
        self.inputs = self.hooks.make_inputs(dict(shape.dims), inputs, 7, device)
        self.outputs = [
            torch.empty(t.sizes(dict(shape.dims)), dtype=getattr(torch, t.dtype), device=device) for t in task.outputs
        ]

    def call(self, entry: Any, point: dict[str, Any]) -> None:
        entry(*(self.inputs[t.name] for t in self.task.inputs), *self.outputs, **point)

    def wrong(self, entry: Any, point: dict[str, Any]) -> str:
        """Empty where the result is right."""
        import torch

        for output in self.outputs:
            output.view(torch.uint8).random_(0, 255)
        self.call(entry, point)
        dims = dict(self.shape.dims)
        if check := getattr(self.hooks, "check", None):
            got = {t.name: o for t, o in zip(self.task.outputs, self.outputs, strict=True)}
            found = check(self.inputs, got, {}, dims, self.family)
            return str(found[0])[:160] if found else ""
        (dim,) = self.hooks.SEPARABLE
        rows = torch.randperm(dims[dim], device=self.device)[:ROWS].sort().values
        want, bound = self.hooks.slices(self.inputs, dims, dim, rows)
        for tensor, output in zip(self.task.outputs, self.outputs, strict=True):
            got = output[rows].double()
            same = (got - want[tensor.name]).abs() <= bound[tensor.name]
            same |= (got == want[tensor.name]) | (got.isnan() & want[tensor.name].isnan())
            if not bool(same.all()):
                at = (~same).nonzero()[0].tolist()
                off = f"{float(got[tuple(at)]):.4g} for {float(want[tensor.name][tuple(at)]):.4g}"
                return f"{int((~same).sum())} of {same.numel()} elements, first {at}: {off}"
        return ""


def points(space: dict[str, list[Any]], count: int, vary: list[str]) -> Iterator[dict[str, Any]]:
    """The default point (empty) and a seeded sample of the grid, or the whole grid of these parameters."""
    if unknown := set(vary) - set(space):
        raise SystemExit(f"--vary: no parameter {', '.join(sorted(unknown))}; there are {', '.join(space)}")
    space = {name: values for name, values in space.items() if name in vary or not vary}
    grid = [dict(zip(space, values, strict=True)) for values in grid_of(*space.values())]
    yield {}
    yield from random.Random(0).sample(grid, len(grid) if vary else min(count, len(grid)))


def shape_of(task: Task, name: str) -> Shape:
    shapes = {shape.name: shape for shape in (*task.check_gpu, *task.check_cpu, *task.timing)}
    if name not in shapes:
        raise SystemExit(f"--only: {task.name} has no shape {name}; it has {', '.join(shapes)}")
    return shapes[name]


def compiled(job: tuple[str, str, str, list[dict[str, Any]]]) -> int:
    """In a process of its own: run each point once, so that Triton's cache on disk has it."""
    task_name, name, shape, asked = job
    task = content.load_task(task_name, HERE)
    of = shape_of(task, shape)
    problem = Problem(task, of, task.timed_family(of), "cuda")
    module = family(task_name, name, Clock(gpu=True))
    for point in asked:
        try:
            problem.call(getattr(module, task.entry), point)
        except Exception:
            continue  # the measuring process says what is wrong with it
    return len(asked)


def checks(device: str, gpu: bool, only: set[str], done: Callable[[list[dict[str, Any]]], None]) -> None:
    """Every family at its defaults, at every shape of its task. `done` is told of all rows after each problem."""
    rows: list[dict[str, Any]] = []
    for folder in sorted(HERE.glob("kernels/msa_*")):
        task = content.load_task(folder.name, HERE)
        shapes = [*task.check_cpu, *(task.check_gpu if gpu else ()), *(task.timing if gpu else ())]
        files = [p.stem for p in sorted(folder.glob("*.py")) if not only or f"{folder.name}/{p.stem}" in only]
        modules = {stem: family(folder.name, stem, Clock(gpu)) for stem in files}
        for shape in shapes if modules else ():
            for inputs in shape.inputs or task.input_families:
                began = time.monotonic()
                problem = Problem(task, shape, inputs, device)
                for name, module in modules.items():
                    try:
                        wrong = problem.wrong(getattr(module, task.entry), {})
                    except Exception as error:
                        wrong = f"{type(error).__name__}: {str(error)[:160]}"
                    rows.append({"family": f"{folder.name}/{name}", "shape": shape.name, "inputs": inputs,
                                 "wrong": wrong})  # fmt: skip
                    if wrong:
                        print(f"WRONG {folder.name}/{name} {shape.name} {inputs}: {wrong}", flush=True)
                del problem
                done(rows)
                if (took := time.monotonic() - began) > 3:
                    print(f"  {folder.name} {shape.name} {inputs}: {took:.1f} s", flush=True)
    right = sum(not row["wrong"] for row in rows)
    print(f"right: {right} of {len(rows)} (family, shape, inputs)")


def timed(
    jobs: list[tuple[str, str, str, list[dict[str, Any]]]],
    device: str,
    seconds: float,
    done: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    for task_name, name, shape, asked in jobs:
        task = content.load_task(task_name, HERE)
        of = shape_of(task, shape)
        problem = Problem(task, of, task.timed_family(of), device)
        clock = Clock(device == "cuda")
        module = family(task_name, name, clock)
        entry = getattr(module, task.entry)
        best: dict[str, Any] | None = None
        for point in asked:
            if time.monotonic() - began > seconds:
                print("out of time", flush=True)
                break
            row: dict[str, Any] = {"family": f"{task_name}/{name}", "shape": shape, "parameters": point}

            def call(problem: Problem = problem, entry: Any = entry, point: dict[str, Any] = point) -> None:
                problem.call(entry, point)

            try:
                row["wrong"] = problem.wrong(entry, point)
                if point is asked[0]:
                    clock.graph(call, repeats=12)  # a device that just woke up is slower
                row["us"] = clock.graph(call, repeats=12)
                row["stages"] = clock.stages(call)
            except Exception as error:
                row["wrong"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                if "CUDA error" in str(error):
                    raise
            del call
            rows.append(row)
            done(rows)
            if row["wrong"]:
                print(f"WRONG {task_name}/{name} {shape} {point}: {row['wrong']}", flush=True)
            elif row.get("us") and (best is None or row["us"] < best["us"] or not point):
                print(line(row), flush=True)
                best = row if best is None or row["us"] < best["us"] else best
    return rows


def line(row: dict[str, Any]) -> str:
    stages = " ".join(f"{name} {us:.0f}" for name, us in row["stages"].items())
    return f"{row['family']:26} {row['shape']:14} {row['us']:9.1f} us  {stages:40} {row['parameters'] or 'default'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--points", type=int, default=24, help="parameter points per family and shape")
    parser.add_argument("--vary", default="", help="parameters, by name")
    parser.add_argument("--seconds", type=float, default=400, help="start no new point after this")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = next((gpu for gpu in detect().visible() if gpu.product is not None), None)
    if gpu is None:
        rehearse()
    device = "cpu" if gpu is None else "cuda"
    print(f"{gpu.name if gpu else 'no GPU: a rehearsal, nothing is timed'}; {time.strftime('%Y-%m-%d')}", flush=True)

    def write(rows: list[dict[str, Any]]) -> None:
        # Again and again: what was found outlives a machine that goes away.
        if options.json:
            options.json.write_text(json.dumps({"gpu": gpu.name if gpu else None, "rows": rows}, indent=1) + "\n")

    if options.check:
        checks(device, gpu is not None, set(options.only.split(",")) - {""}, write)
    else:
        jobs, vary = [], [name for name in options.vary.split(",") if name]
        for item in (options.only or DEFAULT).split(","):
            path, shape = item.split("@")
            task_name, name = path.split("/")
            space = family(task_name, name, Clock(gpu=False)).TUNE
            jobs.append((task_name, name, shape, list(points(space, options.points, vary))))
        if gpu is not None:
            began, cores = time.monotonic(), os.cpu_count() or 1
            # A part of a job for each process: points that differ in nothing that is compiled cost nothing twice.
            parts = [(*job[:3], job[3][i::4]) for job in jobs for i in range(4)]
            with multiprocessing.get_context("spawn").Pool(min(cores, 14)) as pool:
                done = sum(pool.imap_unordered(compiled, parts, chunksize=1))
            print(f"{done} points compiled in {time.monotonic() - began:.0f} s", flush=True)
        found = timed(jobs, device, options.seconds, write)
        for item in jobs:
            ranked = sorted((r for r in found if r["family"] == f"{item[0]}/{item[1]}" and r["shape"] == item[2]
                             and r.get("us") and not r["wrong"]), key=lambda r: r["us"])  # fmt: skip
            for row in ranked[:3]:
                print("best " + line(row))


if __name__ == "__main__":
    main()
