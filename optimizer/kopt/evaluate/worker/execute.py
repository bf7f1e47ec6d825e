"""Job of an untrusted child: import the candidate and call its entry in Triton's interpreter, on tensors from files.

All calls of one shape share their buffers, and every problem is copied in place: a result remembered by pointer, by
shape or by object is stale. Outputs start as garbage of changing kind: random numbers, NaN, the previous results.
Around each buffer lies a guard. That of an input is 0xFF bytes, NaN in every floating-point format, so that what reads
beyond it shows in the result. That of an output is noise: a NaN, or the -1 that pads a list, shows there too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton.runtime import interpreter

from kopt.evaluate.tensors import Layout, nbytes, pack, unpack
from kopt.evaluate.worker import candidate, interpreted
from kopt.evaluate.worker.shims import Presented
from kopt.evaluate.worker.tape import Tape
from kopt.machine.products import Product

AT = "at"
"""Name of the file that holds the number of the call in progress."""

SMS = 4
"""Multiprocessors of the GPU that is pretended: so few that programs of a persistent kernel take several tiles each."""

GUARD = 256 << 10
"""Bytes on either side of a buffer; what an unmasked tile of 128 rows overruns in a small shape."""


def run(payload: dict[str, Any], folder: Path, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """payload: file, entry, parameters, target (fields of Product), groups = [{inputs, outputs (layouts),
    calls = [{call, problem, fill}]}].

    Reads <problem>.in and writes <call>.out. Returns {"calls": {call: {"inputs": SHA-256 of all inputs afterwards,
    "outside": tensor whose guard was overwritten, or "", "launches": names, "aten": names}}}, or {"unavailable": why
    the interpreter cannot run it}. What the candidate raises passes through.
    """
    try:
        return _run(payload, folder)
    except interpreted.Unavailable as error:
        return {"unavailable": str(error)}


def _run(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    tape, turn = Tape(), interpreted.Turn()
    interpreted.install(dataclasses.replace(Product(**payload["target"]), sms=SMS), tape, turn)
    with Presented(tape):
        module = candidate.load(folder / payload["file"], payload["entry"])
    entry = getattr(module, payload["entry"])
    kept = []
    seen: dict[str, dict[str, Any]] = {}
    for turn.number, group in enumerate(payload["groups"]):
        buffers = {item["name"]: _Buffer(item, full) for item in group["inputs"]}
        buffers |= {item["name"]: _Buffer(item, noise) for item in group["outputs"]}
        inputs = [buffers[item["name"]].tensor for item in group["inputs"]]
        outputs = [buffers[item["name"]].tensor for item in group["outputs"]]
        kept.append(buffers)  # an address stands for one tensor, as long as the job lasts
        for call in group["calls"]:
            (folder / AT).write_text(str(call["call"]))
            data = (folder / f"{call['problem']}.in").read_bytes()
            for name, tensor in unpack(data, group["inputs"]).items():
                buffers[name].tensor.copy_(tensor)
            for index, output in enumerate(outputs):
                fill(output, call["fill"], seed=1000 * call["call"] + index)
            # Views: an entry that gives its arguments other storage has not written ours.
            arguments = [tensor.view_as(tensor) for tensor in inputs + outputs]
            tape.take()
            with Presented(tape), interpreted.Redone(tape):
                _call(entry, arguments, payload["parameters"])
            (folder / f"{call['call']}.out").write_bytes(pack(outputs))
            events = tape.take()
            seen[str(call["call"])] = {
                "inputs": hashlib.sha256(pack(inputs)).hexdigest(),
                "outside": next((name for name, buffer in buffers.items() if not buffer.intact()), ""),
                "launches": sorted({event["launch"] for event in events if "launch" in event}),
                "aten": sorted({event["aten"] for event in events if "aten" in event}),
            }
    return {"calls": seen}


class _Buffer:
    """One tensor between two guards, which hold what `made` makes of so many bytes."""

    def __init__(self, item: Layout, made: Callable[[int], torch.Tensor]) -> None:
        size = nbytes([item])
        # torch aligns to 64 bytes, of which the guard is a multiple.
        self._raw = made(GUARD + size + GUARD)
        self.tensor = self._raw[GUARD : GUARD + size].view(getattr(torch, item["dtype"])).view(item["sizes"])
        self._guards = (self._raw[:GUARD], self._raw[GUARD + size :])
        self._was = [guard.clone() for guard in self._guards]

    def intact(self) -> bool:
        """Whether the guards are as they were. If not, mends them, so that each call answers for itself."""
        if all(map(torch.equal, self._guards, self._was)):
            return True
        for guard, was in zip(self._guards, self._was, strict=True):
            guard.copy_(was)
        return False


def full(count: int) -> torch.Tensor:
    return torch.full((count,), 0xFF, dtype=torch.uint8)


def noise(count: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(secrets.randbits(63))
    )


def fill(tensor: torch.Tensor, kind: str, seed: int) -> None:
    """Garbage before a call. "keep" leaves the previous results; "nan" is random where a dtype has no NaN."""
    if kind == "keep":
        return
    if kind == "nan" and tensor.is_floating_point():
        tensor.copy_(torch.full(tensor.shape, float("nan")))
        return
    rng = torch.Generator().manual_seed(seed)
    if tensor.is_floating_point():
        tensor.copy_(torch.randn(tensor.shape, generator=rng))
    else:
        high = 2 if tensor.dtype is torch.bool else 100
        tensor.copy_(torch.randint(0, high, tensor.shape, generator=rng))


def _call(entry: Callable[..., object], arguments: list[torch.Tensor], parameters: dict[str, Any]) -> None:
    try:
        entry(*arguments, **parameters)
    except NotImplementedError as error:
        if _innermost(error) == interpreter.__file__:
            raise interpreted.Unavailable(f"Triton's interpreter: {error}") from error
        raise


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename if trace is not None else ""
