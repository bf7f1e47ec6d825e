"""Whether the judge's numbers are true: against an independent clock, against themselves, against kernels that cheat.

    python bench/judge.py [--backend cuda|cpu] [--gpu N] [--only spread,verdicts,...] [--minutes 8] [--json FILE]

spread     the vendor library against itself, ten verdicts of a contest's twelve quads: how far do the ratios lie apart?
verdicts   seconds to a verdict, and the table of one for the vendor library at all timing shapes
sustained  the same under lasting load
families   every kernel family at its defaults, one quad
run        kopt run fp8_gemm, search alone: its verified kernel in burst and under lasting load, and its predictions
corpus     kernels that cheat or break must be rejected, honest ones accepted
control    torch.mm in bf16, judged and, interleaved, timed by CUDA events around a CUDA graph in this process
tolerance  how near the vendor library comes to the task's limits

On the CPU the same procedure runs at small sizes; its times mean nothing and are compared with nothing. The exit code
is 1 when a section breaks, the corpus is not judged as it should be, or a goal is missed on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "optimizer"), str(ROOT / "tests")]

from judge import kernels  # noqa: E402
from judge_run import BESIDE, PEAK, predicted, search  # noqa: E402

from kopt import content  # noqa: E402
from kopt.audit import Audit, Result, score  # noqa: E402
from kopt.judge import SCREENING, Judge, Judgement, Plan  # noqa: E402
from kopt.machine.choose import choose  # noqa: E402
from kopt.records import Shape, Status  # noqa: E402

RESULTS: dict[str, Any] = {}
DEVICE = ""
"""UUID of the GPU that everything is measured on."""
MINUTES = 8.0
"""Of the section run."""
MM = "import torch\n\ndef bf16_mm(a, b, out):\n    torch.mm(a, b.T, out=out)\n"
VENDOR = (
    "import torch\n\ndef fp8_gemm(a, b, scale_a, scale_b, out):\n"
    "    torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=out.dtype, use_fast_accum=True, out=out)\n"
)


def say(section: str, text: str, **row: Any) -> None:
    RESULTS.setdefault(section, []).append({"text": text, **row})
    print(f"{section:9s} {text}", flush=True)


def goal(section: str, what: str, value: float, limit: float, unit: str, *, least: bool = False) -> None:
    """What the judge must reach on an H200: less than the limit, or at `least` as much."""
    right = value >= limit if least else value < limit
    asked = f"{'at least' if least else 'under'} {limit:g}"
    say(section, f"goal: {what} {value:.2f} {unit}, {asked}: {'holds' if right else 'MISSED'}", right=right)


def small(dims: dict[str, int]) -> list[Shape]:
    return [Shape(name="small", dims=dims)]


def control(backend: str) -> None:
    task = content.read_task(ROOT / "bench/control/bf16_mm")
    plan = (
        Plan(quads=2, check=False, agreement=False)
        if backend == "cuda"
        else Plan(quads=1, check=False, batch_us=2000, idle_s=0)
    )
    with Judge(task, backend, device=DEVICE) as judge:
        for shape in task.timing if backend == "cuda" else small({"M": 64, "N": 64, "K": 64}):
            judged, graph, independent = [], [], []
            clock = None
            for _ in range(7 if backend == "cuda" else 1):
                judgement = judge.measure(MM, shapes=[shape], plan=plan)
                show("control", judgement)
                if judgement.status is not Status.PASSED:
                    return
                measured = judgement.measurements[0]
                judged.append(measured.host_us.value)
                if measured.device_us:
                    graph.append(measured.device_us.value)
                if backend == "cuda":
                    clock = clock or Independent(shape.dims)
                    independent += [clock.us() for _ in range(6)]
            if independent:
                truth = statistics.median(independent)
                parts = [f"independent {truth:.1f} us"]
                off = {}
                for name, times in (("eager", judged), ("graph", graph)):
                    us = statistics.median(times)
                    off[name] = 100 * (us / truth - 1)
                    parts.append(f"{name} {us:.1f} us ({off[name]:+.2f} %)")
                text = f"{shape.name}: {', '.join(parts)}"
                say("control", text, judged=judged, graph=graph, independent=independent)
                # Like with like: the independent one has no host code either.
                goal("control", f"{shape.name}: a graph from an independent one", abs(off["graph"]), 1.0, "%")


class Independent:
    """The same product in this process: a CUDA graph of distinct calls between two events, after a rest."""

    def __init__(self, dims: Any) -> None:
        import torch

        m, n, k = dims["M"], dims["N"], dims["K"]
        self.calls = max(4, round(0.010 / (2 * m * n * k / 0.8e15)))
        a = [torch.randn(m, k, device="cuda").bfloat16() for _ in range(5)]
        b = [torch.randn(n, k, device="cuda").bfloat16() for _ in range(5)]
        self.out = [torch.empty(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(min(24, self.calls))]
        torch.mm(a[0], b[0].T, out=self.out[0])
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(self.calls):
                torch.mm(a[i % 5], b[(i // 5 + i) % 5].T, out=self.out[i % len(self.out)])
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.keep = a, b
        self.graph.replay()
        torch.cuda.synchronize()

    def us(self) -> float:
        time.sleep(0.12)
        self.begin.record()
        self.graph.replay()
        self.end.record()
        self.end.synchronize()
        return 1e3 * self.begin.elapsed_time(self.end) / self.calls


def spread(backend: str) -> None:
    task = content.load_task("fp8_gemm", ROOT)
    shapes = [task.timing[0]] if backend == "cuda" else small({"M": 64, "N": 64, "K": 64})
    plan = Plan(quads=12, check=False, graph=False, agreement=False)
    if backend == "cpu":
        plan = plan.model_copy(update={"batch_us": 2000.0, "idle_s": 0.0, "quads": 1})
    ratios, times, screened = [], [], []
    with Judge(task, backend, device=DEVICE) as judge:
        for _ in range(10 if backend == "cuda" else 2):
            judgement = judge.measure(VENDOR, shapes=shapes, plan=plan)
            if judgement.status is not Status.PASSED:
                show("spread", judgement)
                return
            measured = judgement.measurements[0]
            if measured.baseline_ratio:
                ratios.append(measured.baseline_ratio.value)
                # As many as a screening has.
                screened.append(math.exp(-statistics.fmean(judgement.quads[shapes[0].name][:4])))
            times.append(measured.host_us.value)
            if len(times) == 1:
                show("spread", judgement)
    if backend == "cuda":
        for name, found in (("12 quads", ratios), ("their first 4", screened)):
            apart = 100 * (max(found) / min(found) - 1)
            text = f"ratio {min(found):.4f} to {max(found):.4f} ({apart:.2f} % apart, {name})"
            say("spread", f"{shapes[0].name}: {text}, us {min(times):.2f} to {max(times):.2f}", ratios=found, us=times)
        goal("spread", "ten verdicts of twelve quads", 100 * (max(ratios) / min(ratios) - 1), 1.0, "% apart")


def verdicts(backend: str) -> None:
    task = content.load_task("fp8_gemm", ROOT)
    wrong = VENDOR + "    out[-1, -1] = 1.0\n"
    plan = SCREENING if backend == "cuda" else Plan(quads=1, batch_us=2000.0, idle_s=0.0)
    shapes = None if backend == "cuda" else small({"M": 64, "N": 64, "K": 64})
    unchecked = plan.model_copy(update={"check": False})
    with Judge(task, backend, device=DEVICE) as judge:
        asked = (
            ("first", VENDOR, plan),
            ("warm", VENDOR, plan),
            ("unchecked", VENDOR, unchecked),
            ("wrong", wrong, plan),
        )
        for name, source, how in asked:
            began = time.monotonic()
            judgement = judge.measure(source, shapes=shapes, plan=how)
            seconds = time.monotonic() - began
            phases = parts(judgement.facts.get("seconds", {}))
            batches = f"{judgement.facts.get('batch_count')} batches {parts(judgement.facts.get('batches', {}))}"
            say("verdicts", f"{name}: {judgement.status.value} in {seconds:.2f} s: {phases}", seconds=seconds)
            say("verdicts", f"  {batches}")
            show("verdicts", judgement)
            if backend == "cuda" and name in ("warm", "wrong"):
                goal("verdicts", f"{name}, in", seconds, 8.0 if name == "warm" else 3.0, "s")
            if name == "first":
                say("verdicts", f"walls: {judgement.facts.get('walls')}")


def parts(seconds: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in seconds.items())


def sustained(backend: str) -> None:
    task = content.load_task("fp8_gemm", ROOT)
    if backend == "cpu":
        say("sustained", "not on the CPU")
        return
    with Judge(task, backend, device=DEVICE) as judge:
        plan = Plan(quads=2, check=False, graph=False)
        judgement = judge.measure(VENDOR, shapes=task.timing[:2], regime="sustained", plan=plan)
        say("sustained", f"{judgement.status.value} in {judgement.seconds:.1f} s")
        show("sustained", judgement)


def families(backend: str) -> None:
    """Every kernel family at its defaults; checks apart, so that a time is seen even where a limit is in doubt."""
    task = content.load_task("fp8_gemm", ROOT)
    if backend == "cpu":
        say("families", "not on the CPU")
        return
    with Judge(task, backend, device=DEVICE) as judge:
        for path in sorted((ROOT / "kernels" / task.name).glob("*.py")):
            judgement = judge.measure(path.read_text(), plan=Plan(quads=1, check=False, graph=False, agreement=False))
            say("families", f"{path.stem}: {judgement.status.value} in {judgement.seconds:.1f} s")
            show("families", judgement)


def run(backend: str) -> None:
    task = content.load_task("fp8_gemm", ROOT)
    if backend == "cpu":
        with tempfile.TemporaryDirectory(prefix="kopt-acceptance-") as folder:
            held = search(Path(folder), MINUTES, "")
            say("run", f"{held.reason}; {len(predicted(held.folder))} shapes to compare")
        return
    held = search(Path(tempfile.mkdtemp(prefix="kopt-acceptance-")), MINUTES, DEVICE)
    say("run", f"{held.folder}: {held.reason}; {held.times}")
    for m in held.measurements:
        use = f"{100 * m.utilization.value:.1f} %" if m.utilization else "-"
        ratio = f"x{m.baseline_ratio.value:.4f}" if m.baseline_ratio else "-"
        say("run", f"  {m.shape:12s} {m.regime} {m.host_us.value:.1f} us {use} {ratio}")
    say("run", "predictions, the (measured, predicted) us by shape: see --json", pairs=predicted(held.folder))
    goal("run", "data-sheet peak at the best timing shape", 100 * held.peak, 100 * PEAK, "%", least=True)
    goal("run", "of cuBLASLt's speed, geometric mean of all shapes", held.beside, BESIDE, "x", least=True)
    with Judge(task, backend, device=DEVICE) as judge:
        plan = Plan(quads=2, check=False, graph=False, agreement=False)
        judgement = judge.measure(held.source, parameters=held.parameters, regime="sustained", plan=plan)
        show("run", judgement)
        say("run", f"under lasting load: {judgement.status.value}", right=judgement.status is Status.PASSED)


def tolerance(backend: str) -> None:
    """How near the vendor library comes to the task's limits, on every check shape and family."""
    import torch

    from kopt.evaluate import hooks
    from kopt.evaluate.compare import relative_rms

    task = content.load_task("fp8_gemm", ROOT)
    module = hooks.load(task)
    shapes = [*task.check_gpu, *task.timing[:2]] if backend == "cuda" else task.check_cpu
    for family in task.input_families:
        rows = []
        for shape in shapes:
            dims = dict(shape.dims)
            inputs = module.make_inputs(dims, family, 1, backend)
            want = module.reference(inputs, dims)
            bound = module.bound(inputs, want, dims)["out"]
            out = torch.empty(want["out"].shape, dtype=torch.bfloat16, device=backend)
            module.baseline(*inputs.values(), out)
            error = (out.double() - want["out"]).abs()
            exact = bool((out == want["out"].to(out.dtype)).all())
            of_bound = torch.where(error > 0, error / bound, 0.0).max().item()
            rows.append((shape.name, of_bound, relative_rms(out, want["out"]), exact))
        text = "  ".join(f"{n} {b:.2f}/{r:.1e}{'=' if e else ''}" for n, b, r, e in rows)
        say("tolerance", f"{family}: error over bound / relative RMS ('=': exact): {text}", rows=rows)


def corpus(backend: str) -> None:
    with Audit(ROOT / "tests/attacks", ROOT, backend, DEVICE) as audit:
        results = audit.run([i for i in audit.items if i.stage in ("policy", "measure")], line)
    task = content.read_task(ROOT / "tests/judge/tasks/blend")
    if backend == "cuda":
        big = [Shape(name="big", dims={"M": 2048, "N": 2048, "K": 1024})]
        plan = Plan(quads=1, batch_us=5000.0, idle_s=0.01, check=False, graph=False, most_calls=24)
        with Judge(task, backend, device=DEVICE) as judge:
            for name, source in (("takes all memory", GREEDY), ("after that, plain", kernels.PLAIN)):
                judgement = judge.measure(source, shapes=big, plan=plan)
                say("corpus", f"{name}: {judgement.status.value}", **dump(judgement))
    say("corpus", score(results))


GREEDY = kernels.kernel(
    "compute(a, scale, b, out)",
    "HELD = []\nwhile True:\n    try:\n"
    "        HELD.append(torch.empty(1 << 30, dtype=torch.uint8, device='cuda'))\n"
    "    except torch.OutOfMemoryError:\n        break",
)
"""Takes all memory. It may pass, if the judge has what it needs, or fail; the judge has to survive it."""


def line(result: Result) -> None:
    mark, item = "ok   " if result.right else "MISS ", result.item
    text = f"{mark}{item.path.stem:36s} {result.stage or 'passed':9s}{result.seconds:5.1f} s  {result.finding[:90]}"
    say("corpus", text, right=result.right)


def show(section: str, judgement: Judgement) -> None:
    for m in judgement.measurements:
        ratio = f"x{m.baseline_ratio.value:.4f}" if m.baseline_ratio else "-"
        device = f"graph {m.device_us.value:.1f}" if m.device_us else ""
        use = f"{100 * m.utilization.value:.1f} %" if m.utilization else "-"
        fact = judgement.facts["shapes"][m.shape]
        time_ = f"{m.host_us.value:.1f} us [{m.host_us.low:.1f}, {m.host_us.high:.1f}] {device}"
        state = f"{m.clock_mhz} MHz {m.power_w} W {' '.join((*m.throttle, *m.warnings))}"
        null = f"null {fact['null_us']:.0f} +- {fact['null_spread_us']:.0f}"
        say(section, f"  {m.shape:12s} {m.regime} {time_} {use} {ratio}  {null}  {state}")
    for finding in judgement.findings:
        say(section, f"  {finding.rule}: {finding}")
    RESULTS.setdefault("judgements", []).append(dump(judgement))


def dump(judgement: Judgement) -> dict[str, Any]:
    return {"judgement": judgement.model_dump(mode="json")}


# `control` and `tolerance` last: they open the device in this process, and a judge refuses a device that others use.
SECTIONS = {f.__name__: f for f in (spread, verdicts, sustained, families, run, corpus, control, tolerance)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--gpu", help="index or UUID; default: the first that is idle")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0, help="of the section run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    global DEVICE, MINUTES
    MINUTES = args.minutes
    if args.backend == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = DEVICE = choose(None, args.gpu).gpu or ""
    broken = False
    for name in args.only.split(","):
        began = time.monotonic()
        try:
            SECTIONS[name](args.backend)
        except Exception as error:
            say(name, f"BROKEN {type(error).__name__}: {error}")
            broken = True
        print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)
        if args.json:
            args.json.write_text(json.dumps(RESULTS, indent=1))
    return int(broken or any(row.get("right") is False for rows in RESULTS.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
