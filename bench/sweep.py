"""Measures kernel families on the GPU at hand, many parameter points each, to calibrate and to judge the prediction.

    PYTHONPATH=optimizer python3 bench/sweep.py --points 10 --out bench/data/sweep-h200.json

Not the judge: the kernels are trusted here, and times come from CUDA events around batches of calls over rotating
buffers larger than twice the L2. Every point is checked against the vendor library before it is timed. Burst: 10 ms of
work after 100 ms of idling. The vendor library (torch._scaled_mm) is timed beside every point, so that ratios hold even
when clocks drift.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kopt.machine.fingerprint import fingerprint

SHAPES = {
    "4k-cube": (4096, 4096, 4096),
    "8k-cube": (8192, 8192, 8192),
    "deepseek-v3": (4096, 7168, 16384),
    "llama-70b": (16384, 10240, 8192),
}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def points(space: dict[str, list[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """The default point (empty) and a seeded sample of the grid."""
    grid = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    return [{}, *random.Random(seed).sample(grid, min(count, len(grid)))]


class Problem:
    """One shape with enough input sets to keep them out of the L2 between uses."""

    def __init__(self, dims: tuple[int, int, int], l2: int) -> None:
        self.dims = m, n, k = dims
        sets = max(2, -(-2 * l2 // (m * k + n * k)) + 1)
        generator = torch.Generator(device="cuda").manual_seed(1)

        def draw(rows: int) -> torch.Tensor:
            return torch.randn(rows, k, device="cuda", generator=generator).to(torch.float8_e4m3fn)

        self.sets = [(draw(m), draw(n)) for _ in range(sets)]
        self.scale_a = torch.full((1,), 0.5, device="cuda")
        self.scale_b = torch.full((1,), 0.25, device="cuda")
        self.out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        self.want = self.vendor(0)

    def vendor(self, i: int) -> torch.Tensor:
        a, b = self.sets[i % len(self.sets)]
        return torch._scaled_mm(
            a, b.T, scale_a=self.scale_a, scale_b=self.scale_b, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    def error(self, entry: Any, parameters: dict[str, Any]) -> float:
        self.out.fill_(7.0)
        a, b = self.sets[0]
        entry(a, b, self.scale_a, self.scale_b, self.out, **parameters)
        got, want = self.out.double(), self.want.double()
        return float((got - want).norm() / want.norm())

    def burst(self, call: Any, calls: int) -> float:
        """Microseconds a call: 10 ms or so of calls after 100 ms of idling."""
        torch.cuda.synchronize()
        time.sleep(0.1)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        call(0)
        start.record()
        for i in range(1, calls + 1):
            call(i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / calls

    def time(self, call: Any, repeats: int) -> tuple[float, float]:
        """Median microseconds of the call and of the vendor library, interleaved."""
        flops = 2.0 * self.dims[0] * self.dims[1] * self.dims[2]
        calls = max(3, min(200, int(10e-3 / (flops / 1.2e15))))
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(self.burst(call, calls))
            theirs.append(self.burst(self.vendor, calls))
        return statistics.median(ours), statistics.median(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=8, help="parameter points per family beside the default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=400, help="stop starting new points after this")
    parser.add_argument("--families", default="", help="comma-separated; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    began = time.monotonic()
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    problems = {name: Problem(dims, l2) for name, dims in SHAPES.items()}
    folder = Path(__file__).parent.parent / "kernels" / "fp8_gemm"
    wanted = set(arguments.families.split(",")) - {""}
    modules = {p.stem: load(p) for p in sorted(folder.glob("*.py")) if not wanted or p.stem in wanted}
    # Round by round over the families, so that a stop leaves every family with as many points as the others.
    queue = [
        (name, module, choice)
        for batch in zip(
            *[
                [(name, module, choice) for choice in (points(module.TUNE, 999, arguments.seed) + [None] * 999)[:999]]
                for name, module in modules.items()
            ],
            strict=True,
        )
        for name, module, choice in batch
        if choice is not None
    ][: (arguments.points + 1) * len(modules)]
    rows: list[dict[str, Any]] = []
    for name, module, parameters in queue:
        if time.monotonic() - began > arguments.seconds:
            break
        for shape, problem in problems.items():
            row: dict[str, Any] = {"family": name, "parameters": parameters, "shape": shape, "dims": problem.dims}

            def call(i: int, problem: Problem = problem, module: ModuleType = module, p: Any = parameters) -> None:
                a, b = problem.sets[i % len(problem.sets)]
                module.fp8_gemm(a, b, problem.scale_a, problem.scale_b, problem.out, **p)

            try:
                row["error"] = problem.error(module.fp8_gemm, parameters)
                row["us"], row["vendor_us"] = problem.time(call, arguments.repeats)
                m, n, k = problem.dims
                row["tflops"] = 2 * m * n * k / row["us"] / 1e6
                flag = "" if row["error"] < 1e-2 else "  WRONG"
                ratio = row["vendor_us"] / row["us"]
                figures = f"{row['us']:9.1f} us {row['tflops']:7.0f} TFLOPS {ratio:5.3f} x vendor{flag}"
                print(f"{name:24} {shape:12} {figures}", parameters or "default", flush=True)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                print(f"{name:24} {shape:12} {row['failed']}", parameters or "default", flush=True)
                if "CUDA error" in str(error):  # sticky: nothing further can be measured in this process
                    rows.append(row)
                    queue.clear()
                    break
            rows.append(row)
            if "failed" in row:
                break
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": fingerprint(), "regime": "burst", "evidence": "measured", "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s -> {arguments.out}")
    for shape in SHAPES:
        good = [r for r in rows if r["shape"] == shape and r.get("error", 1) < 1e-2]
        if good:
            best = min(good, key=lambda r: r["us"])
            print(f"best {shape:12} {best['tflops']:6.0f} TFLOPS {best['tflops'] / 19.79:5.1f} % of 1979  "
                  f"{best['vendor_us'] / best['us']:.3f} x vendor  {best['family']} {best['parameters']}")  # fmt: skip


if __name__ == "__main__":
    main()
