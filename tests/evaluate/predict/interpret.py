"""Runs entries in Triton's interpreter, stock or counting, and prints what every program touched.

    python interpret.py stock|full|exact|sampled  < requests

A script, because Triton reads TRITON_INTERPRET when it is imported; many requests at once, because that takes seconds.
A request: {"name", "file", "entry", "tensors": [[name, dtype, sizes, values?]], "parameters"}. Prints by name
{"touched": {"program buffer direction": [bytes, 128-byte lines...]}} and, when counting, {"launches": [...]}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import numpy as np
import torch
from triton.runtime import interpreter

from kopt.evaluate.worker import candidate, mended

Seen = dict[str, tuple[list[int], set[int]]]
Run = Callable[[Any, dict[str, torch.Tensor]], dict[str, Any]]


def main() -> None:
    mode = sys.argv[1]
    requests = json.load(sys.stdin)
    run = stock() if mode == "stock" else count(mode)
    print(json.dumps({request["name"]: run(request, make(request["tensors"])) for request in requests}))


def make(specs: list[Any]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, dtype, sizes, *values in specs:
        tensor = torch.zeros(sizes, dtype=getattr(torch, dtype))
        if values:
            tensor.copy_(torch.tensor(values[0], dtype=tensor.dtype).reshape(sizes))
        tensors[name] = tensor
    return tensors


def call(request: Any, tensors: dict[str, torch.Tensor]) -> None:
    module = candidate.load(Path(request["file"]), request["entry"])
    getattr(module, request["entry"])(*tensors.values(), **request["parameters"])


def stock() -> Run:
    """The interpreter as it is, but for what nobody can do without; every load and store reports its addresses."""
    mended.install()
    builder = interpreter.interpreter_builder
    real = interpreter._interpreter
    spans: list[tuple[int, int, str]] = []
    seen: Seen = {}

    class Watch:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
            note("load", pointers, mask, np.dtype(dtype).itemsize)
            return real.load(pointers, mask, other, dtype)

        def store(self, pointers: Any, value: Any, mask: Any) -> Any:
            note("store", pointers, mask, value.dtype.itemsize)
            return real.store(pointers, value, mask)

        def atomic_rmw(self, op: Any, pointers: Any, value: Any, mask: Any, sem: Any) -> Any:
            note("atomic", pointers, mask, value.dtype.itemsize)
            return real.atomic_rmw(op, pointers, value, mask, sem)

    def note(direction: str, pointers: Any, mask: Any, itemsize: int) -> None:
        live = np.broadcast_to(np.asarray(mask), pointers.shape)
        addresses = pointers[live]
        found = [s for s in spans if addresses.size and s[0] <= int(addresses[0]) < s[1]]
        if found:  # else of the host function's own making, or nothing
            base, _, name = found[0]
            lines = (addresses.astype(np.int64) - base) // 128
            add(seen, f"{builder.grid_idx} {name} {direction}", int(addresses.size) * itemsize, lines)

    def run(request: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.clear()
        spans[:] = [(t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in tensors.items()]
        call(request, tensors)
        return {"touched": listed(seen)}

    interpreter._interpreter = Watch()
    return run


def count(mode: str) -> Run:
    """The counting interpreter on every program of the grid, or on those that it samples by itself."""
    from kopt.evaluate.worker.counting.builder import CountingBuilder
    from kopt.evaluate.worker.counting.install import install
    from kopt.evaluate.worker.counting.launch import Recorder, Target
    from kopt.evaluate.worker.counting.loops import Depth, Loops
    from kopt.evaluate.worker.counting.memory import AddressSpace
    from kopt.evaluate.worker.counting.sampling import summary
    from kopt.evaluate.worker.counting.tally import Tally
    from kopt.evaluate.worker.tape import Tape

    space = AddressSpace()
    builder = CountingBuilder(space)
    tape = Tape()
    recorder = Recorder(
        builder, Loops(builder), Target(4, {}, float(os.environ.get("SECONDS", "1e9"))), tape, lambda key: None
    )
    named: set[str] = set()
    seen: Seen = {}
    access = Tally.access

    def note(
        self: Tally, buffer: Any, direction: str, feed: str, nbytes: int, most: int, ids: Any, unknown: bool = False
    ) -> None:
        access(self, buffer, direction, feed, nbytes, most, ids, unknown)
        if ids.size and buffer is not None and buffer.name in named:
            lines = (ids >> 2).astype(np.int64) - (buffer.base >> 7)
            add(seen, f"{builder.grid_idx} {buffer.name} {direction}", nbytes, lines)

    def everyone(fn: Any, dims: Any, bound: Any) -> dict[str, Any]:
        builder.set_grid_dim(*dims)
        arguments = recorder.arguments(fn, bound)
        programs = dims[0] * dims[1] * dims[2]
        tallies = [recorder.program(fn, arguments, dims, i, Depth(mode)) for i in range(programs)]
        return {**summary(programs, tallies, [], {"programs": 0, "of": 0, "reuse": {}}), "effort": 0.0}

    def run(request: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.clear()
        named.clear()
        for name, tensor in tensors.items():
            space.name(tensor, name, real=not tensor.is_floating_point())
            named.add(name)
        recorder.begin()
        call(request, tensors)
        return {"touched": listed(seen), "launches": [e["launch"] for e in tape.take() if "launch" in e]}

    Tally.access = note  # type: ignore[method-assign]
    if mode != "sampled":
        recorder.count = everyone  # type: ignore[method-assign]
    install(builder, recorder.loops, recorder.executor)
    return run


def add(seen: Seen, key: str, nbytes: int, lines: Any) -> None:
    sums, ids = seen.setdefault(key, ([0], set()))
    sums[0] += nbytes
    ids.update(lines.tolist())


def listed(seen: Seen) -> dict[str, list[int]]:
    return {key: [sums[0], *sorted(lines)] for key, (sums, lines) in sorted(seen.items())}


if __name__ == "__main__":
    main()
