"""How much longer kopt takes to trace a file than bare Triton takes to compile the same kernels.

    python bench/trace.py [--target h200] [--repeat 3] [FILE ...]        # default: every family in kernels/fp8_gemm

Bare Triton is a fresh process with torch and triton imported and an empty cache: it imports the file, calls the entry
at every timing shape, and compiles what is launched instead of launching it. "warm" is the same after an untimed
kernel, that is without what Triton does once per process. kopt's side is the whole trace stage on running workers, on a
file it has not seen: processes, lowering, compiling, disassembly, launch rules, provenance, probes; "again" is the same
file once more. The figure to reach is 1.3 times the fresh process. Best of --repeat runs, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import geometric_mean

from kopt import content
from kopt.evaluate.stage import Case
from kopt.evaluate.trace import Trace
from kopt.evaluate.workers import Workers
from kopt.machine.products import product
from kopt.records import Submission, Task, digest

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
if sys.argv[6] == "warm":
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


def bare(file: Path, task: Task, arch: int, state: str) -> float:
    shapes = [[(t.sizes(s.dims), t.dtype) for t in task.tensors] for s in task.timing]
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder, "warm.py")
        warm.write_text(WARM)
        done = subprocess.run(
            [sys.executable, "-c", BARE, str(arch), str(file), task.entry, json.dumps(shapes), str(warm), state],
            env={**os.environ, "TRITON_CACHE_DIR": folder, "TRITON_DEFAULT_FP_FUSION": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"bare Triton does not compile {file}:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
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
    with Workers() as workers, tempfile.TemporaryDirectory() as store:
        print(f"triton {workers.toolchain().triton}, {target.name}, {workers.cores} cores")
        print(
            f"{'file':<28}{'kernels':>8}{'bare s':>8}{'warm s':>8}{'trace s':>9}{'ratio':>7}",
            f"{'to warm':>8}{'again s':>9}",
        )
        trace = Trace(workers, Path(store))
        for file in files:
            fresh, warm, first, again, kernels = [], [], [], [], 0
            for turn in range(arguments.repeat):
                fresh.append(bare(file, task, target.arch, "fresh"))
                warm.append(bare(file, task, target.arch, "warm"))
                # Another line above it, and every line number differs: to kopt these are kernels it has not seen.
                source = "#\n" * turn + file.read_text()
                case = Case(task, Submission(n=1, sha=digest(source), origin="user"), source, target)
                result = trace.run(case, {})
                first.append(result.seconds)
                again.append(trace.run(case, {}).seconds)
                kernels = len(result.facts["kernels"])
            ratios.append(min(first) / min(fresh))
            print(
                f"{file.name:<28}{kernels:>8}{min(fresh):>8.2f}{min(warm):>8.2f}{min(first):>9.2f}{ratios[-1]:>7.2f}"
                f"{min(first) / min(warm):>9.2f}{min(again):>9.2f}"
            )
        trace.close()
    print(f"trace over bare Triton: geometric mean {geometric_mean(ratios):.2f}, worst {max(ratios):.2f}, goal {GOAL}")
    raise SystemExit(0 if max(ratios) <= GOAL else 1)


if __name__ == "__main__":
    main()
