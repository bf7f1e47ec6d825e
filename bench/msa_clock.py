"""For bench/msa.py: families of the repository, and the time of their launches, stage by stage, and of whole calls."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "optimizer"))
STAGE_OF = {
    "score_kernel": "index", "merge_kernel": "select", "top_kernel": "select", "mark_kernel": "invert",
    "count_kernel": "invert", "scan_kernel": "invert", "place_kernel": "invert", "combine_kernel": "combine",
}  # fmt: skip
"""Of kernels by name; every other one attends."""
STAGE_IN_DECODE = {**STAGE_OF, "merge_kernel": "merge"}
"""There, lists are found by who attends to them, and what is merged are parts of their attention."""


QUEUING = 6_000_000
"""Cycles, some 3 ms: in which the host launches what it times."""


def rehearse() -> None:
    """Have Triton's interpreter stand for an H200. Call it before anything imports triton."""
    os.environ["TRITON_INTERPRET"] = "1"
    from kopt.evaluate.worker import rounding, shims
    from kopt.evaluate.worker.tape import Tape
    from kopt.machine.products import product

    rounding.install()
    shims.install(product("h200"), Tape())  # host code asks for the number of SMs


class Clock:
    """Times calls and their launches: CUDA events on a GPU; in a rehearsal it only counts launches."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self.launches: dict[str, int] = defaultdict(int)
        self._marks: list[tuple[str, Any, Any]] | None = None

    @contextmanager
    def launch(self, stage: str) -> Iterator[None]:
        """Around one launch. Events are recorded by `stages` alone: they would lengthen what `call` times."""
        self.launches[stage] += 1
        if self._marks is None:
            yield
            return
        start, end = _events()
        start.record()
        yield
        end.record()
        self._marks.append((stage, start, end))

    def stages(self, function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
        """Microseconds by stage of a call's launches, median of a few calls; {} in a rehearsal.

        The device is kept waiting until all of them are queued: between two events there is no host.
        """
        if not self.gpu:
            return {}
        import torch

        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(repeats):
            self._marks = []
            torch.cuda._sleep(QUEUING)
            function()
            torch.cuda.synchronize()
            marks, self._marks = self._marks, None
            sums: dict[str, float] = defaultdict(float)
            for stage, start, end in marks:
                sums[stage] += 1e3 * start.elapsed_time(end)
            for stage, us in sums.items():
                found[stage].append(us)
        return {stage: median(times) for stage, times in found.items()}

    def call(self, function: Callable[[], object], repeats: int = 20) -> float | None:
        """Median microseconds of a call, L2 flushed before each; None in a rehearsal, where it is called once.

        What flushes is read, not written: lines still to be written back would be traffic in the time of the call.
        """
        if not self.gpu:
            function()
            return None
        import torch

        flush = torch.zeros(64 << 20, dtype=torch.int32, device="cuda")
        times: list[float] = []
        for turn in range(repeats + 3):
            flush.amax()
            start, end = _events()
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            if turn >= 3:
                times.append(1e3 * start.elapsed_time(end))
            if sum(times) > 5e6:
                break
        return median(times)

    def graph(self, *calls: Callable[[], object], at_least: int = 1, repeats: int = 20) -> float | None:
        """Microseconds of a call in a CUDA graph: what the device takes, however slow the host is.

        One call is a graph of its own, whose launch counts. Several take turns, `at_least` so many in a graph, as in a
        model that is one; they bring their own inputs, too large together for the L2.
        """
        if not self.gpu:
            for call in calls:
                call()
            return None
        import torch

        for call in calls:
            call()
        torch.cuda.synchronize()
        turns = -(-at_least // len(calls))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(turns):
                for call in calls:
                    call()
        us = self.call(graph.replay, repeats)
        return us / (turns * len(calls)) if us else None


def _events() -> tuple[Any, Any]:
    import torch

    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


class Launches:
    """Stands for a kernel of a family's module: its launches are timed by stage."""

    def __init__(self, kernel: Any, stage: str, clock: Clock) -> None:
        self._kernel, self._stage, self._clock = kernel, stage, clock

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            with self._clock.launch(self._stage):
                self._kernel[grid](*args, **kwargs)

        return launch


def family(task: str, name: str, clock: Clock) -> ModuleType:
    """A family's module, its launches timed. `SystemExit` names a file that is not there."""
    path = HERE / "kernels" / task / f"{name}.py"
    if not path.is_file():
        raise SystemExit(f"bench/msa.py: {path.relative_to(HERE)} does not exist")
    spec = importlib.util.spec_from_file_location(f"bench_{task}_{name}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stages = STAGE_IN_DECODE if task.startswith("msa_decode") else STAGE_OF
    for key, value in list(vars(module).items()):
        if key.endswith("_kernel") and hasattr(value, "run") and hasattr(value, "__getitem__"):
            # Composed files say by a prefix which part a kernel is from.
            own = key.partition("_")[2] if task == "msa_prefill" else key
            setattr(module, key, Launches(value, stages.get(own, "attend"), clock))
    return module
