"""Takes the place of Triton's grid: runs a few programs of each launch, and puts the record of it on the tape."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kopt.evaluate.worker.counting import executing
from kopt.evaluate.worker.counting.arguments import convert, dimensions, identity
from kopt.evaluate.worker.counting.builder import CountingBuilder
from kopt.evaluate.worker.counting.loops import Depth, Enough, Loops, TooLong
from kopt.evaluate.worker.counting.sampling import (
    ALIKE,
    EXACT,
    MOST,
    PROBED,
    WHOLE,
    Neighbours,
    hottest,
    representatives,
    scale,
    spread_out,
    stores,
    strata,
    summary,
)
from kopt.evaluate.worker.counting.tally import Span, Tally
from kopt.evaluate.worker.tape import Tape

Known = Callable[[str], dict[str, Any] | None]

TAKEN = "what it finds is not computed: the task's stand-in is taken"
CALL = 2
"""Budgets of one launch that a whole call has."""
REPEATED = "counted like an earlier launch of the same size: the budget for one call was spent"


@dataclass
class Target:
    """What of the GPU the sampling depends on."""

    sms: int
    kernels: Mapping[str, Mapping[str, int]]
    """Compiled kernels by name: occupancy (blocks per SM), warps, stages."""
    seconds: float
    """Budget for one launch, in seconds of effort."""

    def resident(self, kernel: str) -> int:
        """Programs that run at the same time. Two blocks per SM are enough to see what neighbours share."""
        return self.sms * min(2, max(1, self.kernels.get(kernel, {}).get("occupancy", 1)))


class Recorder:
    """Counts every launch of a call; an instance of its `executor` stands for triton's GridExecutor."""

    def __init__(
        self,
        builder: CountingBuilder,
        loops: Loops,
        target: Target,
        tape: Tape,
        known: Known,
        name_of: Callable[[torch.Tensor], str] = lambda tensor: "",
    ) -> None:
        """`name_of` says by which name a tensor would have a stand-in."""
        self.builder = builder
        self.loops = loops
        self.target = target
        self.tape = tape
        self.known = known
        self.name_of = name_of
        self.effort = 0.0
        """Of everything counted so far, in seconds."""
        self.begin()
        recorder = self

        class Executor:
            """Called by InterpretedFunction.run in place of running the whole grid."""

            def __init__(self, fn: Any, arg_names: list[str], grid: Any, pre_run_hooks: Any = ()) -> None:
                self.fn, self.arg_names, self.grid = fn, arg_names, grid

            def __call__(self, *args: Any, **kwargs: Any) -> None:
                # What runs here is the kernel, not the host function that the shims are for.
                with torch._C.DisableTorchFunction():
                    recorder.launch(self.fn, self.grid, args, kwargs)

        self.executor = Executor

    def begin(self, stand_ins: Mapping[str, bytes] | None = None) -> None:
        """Before a call of the entry; stand-ins are what tensors of their names hold once a kernel wrote to them."""
        self.stand_ins = stand_ins or {}
        self.left = CALL * self.target.seconds
        self.earlier: dict[str, dict[str, Any]] = {}
        """Counts of the call's launches by their size."""

    def launch(self, fn: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count one launch, or take its counts from an earlier identical one."""
        signature = inspect.getfullargspec(fn).args
        bound = inspect.getcallargs(fn, *args, **{k: v for k, v in kwargs.items() if k in signature})
        asked = grid(bound) if callable(grid) else grid
        x, y, z = (*(int(n) for n in (asked if isinstance(asked, tuple | list) else (asked,))), 1, 1)[:3]
        dims = (x, y, z)
        key = ""  # of counts that are its own and could be another's
        size = dimensions(fn, dims, bound)
        buffers = self._buffers(bound)
        counted, computed = None, False
        if self.left <= 0 and size in self.earlier:
            counted = self.earlier[size]
            counted = {**counted, "warnings": sorted({*counted.get("warnings", ()), REPEATED})}
        elif executing.fit(bound, self.builder.space):
            counted = self.execute(fn, dims, bound)
            computed = counted is not None
        if counted is None:
            key = identity(fn, dims, self.target.resident(fn.__name__), bound, self.builder.space)
            counted = self.known(key) or self.count(fn, dims, bound)
            self.left -= counted["effort"]
        self.earlier[size] = counted
        if not computed:
            counted = self._leave(bound, counted)
        sizes = {buffer.name: buffer.nbytes for buffer in buffers}
        self.tape.add({"launch": {"name": fn.__name__, "grid": dims, "key": key, "buffers": sizes, "counts": counted}})

    def _leave(self, bound: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
        """After a launch whose results were not computed: unknown to launches that read them, or a stand-in's."""
        taken = False
        for tensor in (tensor for value in bound.values() for tensor in executing.tensors(value)):
            buffer = self.builder.space.of(tensor)
            if buffer.name not in counted["stores"]:
                continue
            data = self.stand_ins.get(self.name_of(tensor))
            if data is not None and buffer.values is not None and len(data) == buffer.nbytes:
                buffer.values[:] = np.frombuffer(data, dtype=np.uint8)
                buffer.written = False
                taken = True
            else:
                buffer.written = True
        return {**counted, "warnings": sorted({*counted["warnings"], TAKEN})} if taken else counted

    def count(self, fn: Any, dims: tuple[int, int, int], bound: dict[str, Any]) -> dict[str, Any]:
        started = self.effort
        arguments = self.arguments(fn, bound)
        programs = dims[0] * dims[1] * dims[2]
        resident = self.target.resident(fn.__name__)
        self.builder.set_grid_dim(*dims)

        def run(index: int, depth: Depth) -> Tally:
            return self.program(fn, arguments, dims, index, depth)

        def spent(share: float) -> bool:
            return self.effort - started > share * self.target.seconds

        if programs == 0:
            return {"programs": 0, "stores": [], "warnings": [], "effort": 0.0}
        order = spread_out(programs)
        tallies: list[Tally] = []
        for index in order[:EXACT]:
            tallies.append(run(index, Depth("exact")))
            if spent(0.5):
                break
        stop = hottest(tallies)
        # Without a loop to stop in, each neighbour is run to its end.
        size = min(programs, resident if stop is not None else min(resident, WHOLE))
        window = self._window(size, programs, run, stop, spent)
        light: list[Tally] = []
        varied = len({(t.flops(), t.bytes()) for t in tallies}) > 1
        varied = varied or len({tuple(sorted(lengths.items())) for lengths in window["lengths"]}) > 1
        varied = varied or any(tally.steered for tally in tallies)  # real data decides: others may fare otherwise
        shares: list[float] | None = None
        if varied and not scale(tallies, window, programs):
            groups = strata(self._lengths(programs, run, lambda: spent(1.0)))
            if len(groups) > 1:
                tallies, shares = [], []
                for index, share in representatives(groups).items():
                    light.append(run(index, Depth("light")))
                    shares.append(share)
            else:
                for index in order[EXACT:MOST]:
                    light.append(run(index, Depth("light")))
                    if spent(1.0):
                        break
        found = summary(programs, tallies, light, window, shares)
        return {**found, "hurried": spent(1.0), "effort": self.effort - started}

    def _lengths(
        self, programs: int, run: Callable[[int, Depth], Tally], spent: Callable[[], bool]
    ) -> dict[int, dict[Span, int]]:
        """How long the outermost loops of many programs are."""
        found: dict[int, dict[Span, int]] = {}
        for index in spread_out(programs, min(programs, PROBED)):
            found[index] = run(index, Depth("probe")).lengths
            alike = len(found) == ALIKE and all(lengths == found[index] for lengths in found.values())
            if alike or spent():
                break
        return found

    def execute(self, fn: Any, dims: tuple[int, int, int], bound: dict[str, Any]) -> dict[str, Any] | None:
        """Run every program of a launch on integers for its results, and count it on the way.

        None, and what was stored so far no longer known, when it does something that is not computed here or when the
        budget is too small.
        """
        started = self.effort
        budget = min(self.target.seconds, self.left)
        programs = dims[0] * dims[1] * dims[2]
        arguments = self.arguments(fn, bound)
        self.builder.set_grid_dim(*dims)
        size = min(programs, self.target.resident(fn.__name__))
        window = Neighbours(size)
        tallies: list[Tally] = []
        self.builder.executing = True
        try:
            for index in range(programs):
                tally: Tally = executing.Strict()
                if index < size:
                    tally.window = {}
                self.program(fn, arguments, dims, index, Depth("full"), tally)
                if index < size:
                    window.add(index, tally)
                tallies.append(tally)
                used = self.effort - started
                if used * programs > budget * (index + 1) and (used > 0.05 * budget or used > budget):
                    raise executing.Unfit("too many programs")
        except (executing.Unfit, TooLong):
            for tally in (*tallies, self.builder.tally):
                for buffer in self._buffers(bound):
                    buffer.written = buffer.written or buffer.name in stores([tally])
            return None
        finally:
            self.builder.executing = False
            self.left -= self.effort - started
        return (
            summary(programs, tallies, [], window.found())
            if programs
            else {"programs": 0, "stores": [], "warnings": []}
        )

    def arguments(self, fn: Any, bound: Mapping[str, Any]) -> dict[str, Any]:
        """Launch arguments as the interpreter sees them."""
        annotations = {name: str(annotation) for name, annotation in fn.__annotations__.items()}
        return {
            n: v if "constexpr" in annotations.get(n, "") else convert(v, self.builder.space) for n, v in bound.items()
        }

    def program(
        self, fn: Any, arguments: dict[str, Any], dims: Any, index: int, depth: Depth, tally: Tally | None = None
    ) -> Tally:
        """Run one program; x is the fastest dimension of a grid, as on the hardware."""
        x, rest = index % dims[0], index // dims[0]
        self.builder.set_grid_idx(x, rest % dims[1], rest // dims[1])
        tally = self.builder.tally = tally or Tally()
        tally.probing = depth.kind == "probe"
        if depth.kind == "window":
            tally.window = {}
        self.loops.depth, self.loops.iterations = depth, 0
        try:
            with np.errstate(all="ignore"):
                fn(**arguments)
        except Enough:
            pass
        finally:
            self.effort += tally.effort
        return tally

    def _window(
        self,
        size: int,
        programs: int,
        run: Callable[[int, Depth], Tally],
        stop: Span | None,
        spent: Callable[[float], bool],
    ) -> dict[str, Any]:
        """What neighbouring programs that run at the same time share, by buffer: distinct over loaded sectors."""
        first = programs // size // 2 * size
        first = min(first, programs - size)
        window = Neighbours(size)
        for index in range(first, first + size):
            window.add(index, run(index, Depth("window", stop=stop)))
            if spent(0.8):
                break
        return window.found()

    def _buffers(self, bound: dict[str, Any]) -> list[Any]:
        return [self.builder.space.of(tensor) for value in bound.values() for tensor in executing.tensors(value)]
