"""Runs a candidate's entry on a GPU that is not there and reports what it did. Untrusted: its word is checked again.

A call per timing shape on untouched memory, then a few more for host time, then the probes: does the same input, a
fresh input, a rewritten buffer or another caller change the kinds of work that are done?
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kopt.evaluate.traced import PROBES
from kopt.evaluate.worker import aten, candidate, shims
from kopt.evaluate.worker.front import Ask, Front
from kopt.evaluate.worker.tape import Event, Tape
from kopt.machine.products import product

_TRIVIAL = 1 << 12
"""Elements up to which a float tensor is filled with ones, so that a host that reads a scale reads a plausible one."""

Tensors = list[torch.Tensor]


class _Failed(Exception):
    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts


def run(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Trace payload["entry"] of payload["source"], a file in the folder, on payload["shapes"].

    Returns {"shapes": {name: {"first", "steady", "host_us", "tensors"}}, "probes", "notes", "swallowed", "error",
    "again"}, where "again" says that something taken for granted was false and the trace must be repeated with
    payload["wait"].
    """
    tape = Tape()
    file = folder / payload["source"]
    target = product(payload["target"])
    front = Front(ask, file, target, tape, payload["wait"])
    shims.install(target, tape)
    front.install()
    tracer = _Tracer(tape, file, payload)
    report: dict[str, Any] = {"shapes": {}, "probes": {}, "error": None, "again": False}
    try:
        with shims.Presented(tape):
            module = candidate.load(file, payload["entry"])
        tracer.entry = getattr(module, payload["entry"])
        for shape in payload["shapes"]:
            report["shapes"][shape["name"]] = tracer.shape(shape, folder)
        if payload["probe"]:
            report["probes"] = tracer.probes(payload["shapes"][0], folder)
    except _Failed as failure:
        report["error"] = failure.facts
    front.settle()
    report["again"] = not payload["wait"] and front.refused()
    passed_on = report["error"]["id"] if report["error"] else None
    swallowed = [tracer.facts(e) for e in tape.raised if id(e) != passed_on]
    report["swallowed"] = [e for n, e in enumerate(swallowed) if e not in swallowed[:n]]
    report["notes"] = list(tape.notes)
    return report


class _Tracer:
    def __init__(self, tape: Tape, file: Path, payload: Mapping[str, Any]) -> None:
        self.entry: Callable[..., Any]
        self._tape, self._file = tape, str(file)
        self._parameters = payload["parameters"]
        self._repeats = payload["repeats"]
        self._alive: list[Tensors] = []
        """No address is given out twice: what is fresh must look fresh."""

    def shape(self, shape: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """What the first call and a later one did, and the median host time of the later ones."""
        tensors = self._tensors(shape, folder)
        first = self._call(tensors, shape["name"])
        steady, times = first, []
        for _ in range(self._repeats):
            started = time.perf_counter()
            steady = self._call(tensors, shape["name"])
            times.append(time.perf_counter() - started)
        return {
            "first": first,
            "steady": steady,
            "host_us": median(times) * 1e6 if times else None,
            "tensors": [[t.data_ptr(), t.nbytes] for t in tensors],
        }

    def probes(self, shape: Mapping[str, Any], folder: Path) -> dict[str, list[str]]:
        """Kinds of work by circumstance: each a sorted list of kernels and ATen operations."""
        tensors = self._tensors(shape, folder)
        roles = [t["role"] for t in shape["tensors"]]
        fresh, same, rewritten, *callers = PROBES
        found = {fresh: self._kinds(tensors, shape), same: self._kinds(tensors, shape)}
        for tensor, role in zip(tensors, roles, strict=True):
            if role == "input":
                # A page of it, in place: the same address with other contents.
                tensor.view(-1).view(torch.uint8)[:64].add_(1)
        found[rewritten] = self._kinds(tensors, shape)
        for caller in callers:
            found[caller] = self._kinds(tensors, shape, caller)
        return found

    def _tensors(self, shape: Mapping[str, Any], folder: Path) -> Tensors:
        self._alive.append(make_tensors(shape["tensors"], folder))
        return self._alive[-1]

    def _kinds(self, tensors: Tensors, shape: Mapping[str, Any], caller: str = "") -> list[str]:
        events = self._call(tensors, shape["name"], caller)
        return sorted({f"kernel {e['name']}" if "launch" in e else f"aten {e['aten']}" for e in events})

    def _call(self, tensors: Tensors, shape: str, caller: str = "") -> list[Event]:
        self._tape.take()
        entry = self.entry
        if caller:
            # A frame with another name, from a file with another name.
            scope: dict[str, Any] = {"__name__": caller}
            text = f"def {caller}(entry, *args, **kwargs):\n    return entry(*args, **kwargs)\n"
            exec(compile(text, f"{caller}.py", "exec"), scope)
            inner, entry = entry, lambda *args, **kwargs: scope[caller](inner, *args, **kwargs)
        try:
            with shims.Presented(self._tape), aten.Recorded(self._tape):
                entry(*tensors, **self._parameters)
        except (MemoryError, SystemExit):
            raise
        except Exception as error:
            raise _Failed({**self.facts(error), "shape": shape, "id": id(error)}) from error
        return self._tape.take()

    def facts(self, error: BaseException) -> dict[str, Any]:
        """An exception as data: its type, one line of text, and the line of the candidate's file that it comes from."""
        name = type(error).__name__
        text, line = _compilation_error(error)
        if text is None:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == self._file]
            try:
                text = str(error)
            except Exception:
                text = "(its text cannot be read)"
            line = lines[-1] if lines else None
        return {"type": name, "message": " ".join(text.split())[:400], "line": line}


def make_tensors(specs: Sequence[Mapping[str, Any]], folder: Path) -> Tensors:
    """One CPU tensor per spec {"sizes", "dtype", "file"?}: memory that nobody touches, which costs nothing at any size.

    With a "file" in the folder, the tensor's bytes, the contents are real. Other integers are zero: they may steer the
    host.
    """
    tensors = []
    for spec in specs:
        dtype = getattr(torch, spec["dtype"])
        if spec.get("file"):
            tensor = torch.empty(spec["sizes"], dtype=dtype)
            if tensor.numel():
                data = bytearray((folder / spec["file"]).read_bytes())
                tensor.view(-1).view(torch.uint8).copy_(torch.frombuffer(data, dtype=torch.uint8))
            tensors.append(tensor)
            continue
        if not dtype.is_floating_point:
            tensors.append(torch.zeros(spec["sizes"], dtype=dtype))
            continue
        tensor = torch.empty(spec["sizes"], dtype=dtype)
        if tensor.numel() <= _TRIVIAL:
            tensor.copy_(torch.ones(()))
        tensors.append(tensor)
    return tensors


def _compilation_error(error: BaseException) -> tuple[str | None, int | None]:
    """Text and absolute line of the innermost Triton CompilationError in a chain, or (None, None)."""
    from triton.compiler.errors import CompilationError

    text: str | None = None
    line: int | None = None
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, CompilationError):
            words = str(current.error_message or "").strip()
            text = words or text or "compilation failed"
            line = _absolute_line(current) or line
        elif text is not None and not text.strip("'\""):
            text = str(current)
        current = current.__cause__
    return text, line


def _absolute_line(error: Any) -> int | None:
    from triton.runtime.jit import JITCallable

    lineno = getattr(error.node, "lineno", None)
    if lineno is None or error.src is None:
        return None
    module = sys.modules.get(candidate.MODULE)
    for value in vars(module).values() if module else ():
        function = value
        while function is not None and not isinstance(function, JITCallable):
            function = getattr(function, "fn", None)
        if function is not None and function.src == error.src:
            definition = next(i for i, text in enumerate(function.raw_src) if text.lstrip().startswith("def "))
            return int(function.starting_line_number + definition + lineno - 1)
    return None
