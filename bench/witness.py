"""The judge's witnesses tried on a GPU: replayed launches, telemetry while batches run, activity counters.

    python bench/witness.py [--backend cuda|cpu] [--only replay,watch,activity] [FAMILY...]

replay    device-only time of families of fp8_gemm by recipe replay, beside CUDA events around plain launches of the
          same kernels in this process, and what it adds to a verdict
watch     whether looking at the device every millisecond disturbs a timed burst, and how often it publishes something
activity  what the counters see under a lasting load, beside what is claimed

On the CPU the recipes are made and printed; there is nothing to launch them on, and nothing to look at.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "optimizer")]

from kopt import content  # noqa: E402
from kopt.evaluate.measure import material  # noqa: E402
from kopt.evaluate.stage import Case  # noqa: E402
from kopt.evaluate.trace import Trace  # noqa: E402
from kopt.evaluate.workers import Workers  # noqa: E402
from kopt.judge import Judge, Plan  # noqa: E402
from kopt.machine.detect import detect  # noqa: E402
from kopt.machine.products import product  # noqa: E402
from kopt.records import Submission, digest  # noqa: E402

QUICK = {"check": False, "accuracy": False, "agreement": False, "graph": False, "witness": False}


def judged(backend: str, families: list[str], sections: list[str]) -> None:
    task = content.load_task("fp8_gemm", ROOT)
    plan = Plan(quads=2, **QUICK).model_copy(update={"witness": "activity" in sections, "replay": "replay" in sections})
    with Workers() as workers, tempfile.TemporaryDirectory() as store, Judge(task, backend) as judge:
        trace = Trace(workers, Path(store))
        for family in families:
            source = (ROOT / f"kernels/fp8_gemm/{family}.py").read_text()
            case = Case(task, Submission(n=1, sha=digest(source), origin="user"), source, product("h200"))
            found = material({"trace": trace.run(case, {})})
            if backend == "cpu":
                recipe = found.recipes[task.timing[0].name] if found else None
                print(f"{family}: {recipe and (recipe.reason or [step.name for step in recipe.steps])}")
                continue
            judgement = judge.measure(source, plan=plan, material=found)
            seconds = judgement.facts.get("seconds", {})
            took = ", ".join(f"{name} {s:.2f}" for name, s in seconds.items() if name in ("replay", "witness"))
            print(f"{family}: {judgement.status.value}; {took} s; {[str(f) for f in judgement.findings]}", flush=True)
            for m in judgement.measurements:
                replayed = judgement.facts.get("replay", {}).get(m.shape, {})
                plain = events(source, task.entry, dims(task, m.shape)) if backend == "cuda" else None
                device = f"{m.device_us.value:.1f}" if m.device_us else replayed.get("reason", "")
                print(
                    f"  {m.shape}: host {m.host_us.value:.1f} us, replayed {device}, "
                    f"plain launches {plain and round(plain, 1)}; idle launches {replayed.get('idle')}; "
                    f"{m.clock_mhz} MHz, {m.power_w} W, {m.throttle} {m.warnings}",
                    flush=True,
                )
                if seen := judgement.facts.get("activity", {}).get(m.shape):
                    print(
                        f"    activity { ({k: round(v, 2) if isinstance(v, float) else v for k, v in seen.items()}) }"
                    )
        trace.close()


def dims(task: Any, name: str) -> dict[str, int]:
    return next(dict(s.dims) for s in task.timing if s.name == name)


def events(source: str, entry: str, size: dict[str, int]) -> float:
    """Microseconds a call of plain launches, 10 ms of them over rotating operands after a rest, between two events."""
    import torch

    from kopt.judge.runner import load

    call = getattr(load(source, Path(tempfile.mkdtemp())), entry)
    m, n, k = size["M"], size["N"], size["K"]
    one = torch.ones(1, device="cuda")
    a = [torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(3)]
    b = [torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(3)]
    out = [torch.empty(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    calls, times = 3, []
    for _ in range(5):
        torch.cuda.synchronize()
        time.sleep(0.1)
        begin.record()
        for i in range(calls):
            call(a[i % 3], b[i % 3], one, one, out[i % 3])
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / calls)
        calls = max(3, round(10_000 / times[-1]))
    return statistics.median(times[1:])


def watch() -> None:
    import torch

    from kopt.judge.backends.cuda import CudaJudge

    judge = CudaJudge(detect().visible()[0].uuid)
    judge._open_nvml()
    judge._torch = torch
    print(f"watch: activity counters {judge.telemetry()['activity counters']}")
    a = torch.randn(4096, 4096, device="cuda").bfloat16()
    out = torch.empty_like(a)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: dict[bool, list[float]] = {False: [], True: []}
    readings, bare = [], []
    for number in range(80):
        looked = number % 2 == 1
        time.sleep(0.1)
        if looked:
            judge.watch(1.0)
        since = time.perf_counter_ns()
        begin.record()
        for _ in range(60):
            torch.mm(a, a, out=out)
        end.record()
        end.synchronize()
        until = time.perf_counter_ns()
        times[looked].append(1e3 * begin.elapsed_time(end))
        if looked:
            asked = time.perf_counter()
            readings.append(judge.sample(since, until).readings)
            bare.append(1e6 * (time.perf_counter() - asked))
    quiet, seen = (statistics.median(times[k][4:]) for k in (False, True))
    spread = statistics.stdev(times[False][4:]) / quiet
    print(
        f"watch: 60 products {quiet:.1f} us unwatched, {seen:.1f} us watched ({100 * (seen / quiet - 1):+.2f} %, "
        f"spread {100 * spread:.2f} %); {statistics.median(readings)} readings a burst; "
        f"asking takes {statistics.median(bare):.0f} us"
    )
    # How often something new is published, under load.
    news: dict[str, list[float]] = {"clock": [], "power": []}
    last: dict[str, float | None] = {}
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < 1.2:
        torch.mm(a, a, out=out)
        found = judge._reader.read()
        for name, value in (("clock", found.clock_mhz), ("power", found.power_w)):
            if last.get(name) != value:
                last[name] = value
                news[name].append(now)
    torch.cuda.synchronize()
    for name, moments in news.items():
        gaps = [1e3 * (b - a) for a, b in pairwise(moments)]
        print(f"watch: {name} new {len(moments)} times in 1.2 s, median gap {statistics.median(gaps or [0]):.0f} ms")
    judge.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda" if detect().visible() else "cpu")
    parser.add_argument("--only", default="watch,replay,activity")
    parser.add_argument("families", nargs="*", default=["tma_persistent", "naive"])
    options = parser.parse_args()
    sections = options.only.split(",")
    if options.backend == "cuda" and "watch" in sections:
        watch()
    if {"replay", "activity"} & set(sections):
        judged(options.backend, options.families, sections)


if __name__ == "__main__":
    main()
