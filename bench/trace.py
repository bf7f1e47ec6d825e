"""How much longer `kopt check` takes to trace a file than bare Triton takes to compile the same kernels.

    python bench/trace.py [--target h200] [FILE ...]        # default: every family in kernels/fp8_gemm

Bare Triton is a fresh process with torch and triton imported, one untimed kernel compiled, and an empty cache; it calls
the entry at every timing shape and compiles what is launched, nothing more. kopt's side is the whole trace stage on warm
workers with an empty store: processes, lowering, compiling, disassembly, launch rules, provenance, probes. The figure to
reach is 1.3. Both sides take the best of --repeat runs, in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import geometric_mean

GOAL = 1.3
BARE = r"""
import importlib.util, json, sys, time
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

arch, file, entry, shapes = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])

class Driver:
    def get_current_target(self): return GPUTarget("cuda", arch, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 0
    def get_benchmarker(self): return lambda call, quantiles: [call(), 1.0, 1.0][1:] * 2
    class utils:
        @staticmethod
        def get_device_properties(device): return {"multiprocessor_count": 132, "max_shared_mem": 232448}

triton.runtime.driver.set_active(Driver())
torch.cuda.get_device_properties = lambda device=None: type("P", (), {"multi_processor_count": 132})
run = JITFunction.run
JITFunction.run = lambda self, *args, grid, warmup, **kwargs: run(self, *args, grid=grid, warmup=True, **kwargs)

spec = importlib.util.spec_from_file_location("warm", sys.argv[5])
warm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(warm)
warm.nothing[(1,)](torch.empty(1))
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("kernel", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for tensors in shapes:
    getattr(module, entry)(*(torch.empty(sizes, dtype=getattr(torch, dtype)) for sizes, dtype in tensors))
print(time.perf_counter() - started)
"""
WARM = """
import triton
import triton.language as tl

@triton.jit
def nothing(ptr):
    tl.store(ptr, 0.0)
"""


def bare(file: Path, task, arch: int) -> float:
    shapes = [[(t.sizes(s.dims), t.dtype) for t in task.tensors] for s in task.timing]
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder, "warm.py")
        warm.write_text(WARM)
        environment = {"TRITON_CACHE_DIR": folder, "TRITON_DEFAULT_FP_FUSION": "1", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", BARE, str(arch), str(file), task.entry, json.dumps(shapes), str(warm)],
            env=environment | {k: v for k, v in __import__("os").environ.items() if k == "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"bare Triton does not compile {file}:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    from kopt import content
    from kopt.evaluate.stage import Case
    from kopt.evaluate.trace import Trace
    from kopt.evaluate.workers import Workers
    from kopt.machine.products import product
    from kopt.records import Submission, digest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    files = arguments.files or sorted((here / "kernels" / "fp8_gemm").glob("*.py"))
    task = content.load_task("fp8_gemm", here)
    target = product(arguments.target)

    ratios = []
    with Workers() as workers:
        print(f"{workers.toolchain().triton}, {target.name}, {workers.cores} cores")
        print(f"{'file':<28}{'kernels':>8}{'bare s':>9}{'trace s':>9}{'ratio':>7}{'again s':>9}")
        for file in files:
            source = file.read_text()
            case = Case(task, Submission(n=1, sha=digest(source), origin="user"), source, target)
            bares, traces, again, kernels = [], [], [], 0
            for _ in range(arguments.repeat):
                bares.append(bare(file, task, target.arch))
                with tempfile.TemporaryDirectory() as store:
                    trace = Trace(workers, Path(store))
                    result = trace.run(case, {})
                    traces.append(result.seconds)
                    again.append(trace.run(case, {}).seconds)
                    trace.close()
                kernels = len(result.facts["kernels"])
            ratio = min(traces) / min(bares)
            ratios.append(ratio)
            print(f"{file.name:<28}{kernels:>8}{min(bares):>9.2f}{min(traces):>9.2f}{ratio:>7.2f}{min(again):>9.2f}")
    worst, mean = max(ratios), geometric_mean(ratios)
    print(f"trace over bare Triton: geometric mean {mean:.2f}, worst {worst:.2f}, goal {GOAL}")
    raise SystemExit(0 if worst <= GOAL else 1)


if __name__ == "__main__":
    main()
