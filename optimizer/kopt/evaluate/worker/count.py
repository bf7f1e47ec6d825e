"""Job of an untrusted child: import the candidate and count what its entry would do at each timing shape.

The host function runs as while tracing (`shims`, `aten`): on CPU tensors that are never touched, presented as CUDA
tensors of the target. Runs in the server with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kopt.evaluate.steering import STEERING
from kopt.evaluate.tensors import Layout
from kopt.evaluate.worker import candidate, shims
from kopt.evaluate.worker.aten import Recorded
from kopt.evaluate.worker.counting import autotuned
from kopt.evaluate.worker.counting.builder import CountingBuilder
from kopt.evaluate.worker.counting.install import install
from kopt.evaluate.worker.counting.launch import Recorder, Target
from kopt.evaluate.worker.counting.loops import Loops
from kopt.evaluate.worker.counting.memory import AddressSpace
from kopt.evaluate.worker.tape import Tape
from kopt.machine.products import Product

_STAND_IN = "stand-in"

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def run(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """payload: file, entry, parameters, target (fields of Product), kernels = {name: {occupancy, warps, stages}},
    seconds (of effort, for one launch).

    Asks {"next": how many it has done} until {"shape"} is null; a shape is {name, tensors (layouts in the order of the
    arguments), values = {tensor: file}}. `values` name files with the bytes of the tensors whose content is real, and
    of stand-ins for what a kernel finds from floats (names of `stand_in`); everything else is a placeholder. Asks
    {"known": key} for the counts of a launch seen before. Returns {"shapes": {name: {"launches"} or {"error"}},
    "notes"}.
    """
    space = AddressSpace()
    builder = CountingBuilder(space)
    loops = Loops(builder)
    tape = Tape()
    target = Target(payload["target"]["sms"], payload["kernels"], payload["seconds"])
    recorder = Recorder(builder, loops, target, tape, lambda key: ask({"known": key}).get("counts"), stand_in)
    install(builder, loops, recorder.executor)
    autotuned.install(tape, payload["kernels"])
    _gluon(tape)
    shims.install(Product(**payload["target"]), tape)
    answers: dict[str, Any] = {}
    with Recorded(tape), shims.Presented(tape):
        module = candidate.load(folder / payload["file"], payload["entry"])
        entry = getattr(module, payload["entry"])
        while (shape := ask({"next": len(answers)})["shape"]) is not None:
            with torch._C.DisableTorchFunction():
                arguments = _arguments(shape, folder, space)
            held = {n: (folder / file).read_bytes() for n, file in shape["values"].items() if n.startswith(_STAND_IN)}
            try:
                captured = tape.captured
                launches = _call(entry, arguments, payload["parameters"], tape, recorder, held)
                if tape.captured != captured:
                    # The call that captures a graph does more than those that replay it, which are what repeats.
                    launches = _call(entry, arguments, payload["parameters"], tape, recorder, held)
            except Exception as error:
                answers[shape["name"]] = {"error": _line(error)}
            else:
                answers[shape["name"]] = {"launches": launches}
    return {"shapes": answers, "notes": list(tape.notes)}


def _call(
    entry: Callable[..., Any],
    arguments: list[torch.Tensor],
    parameters: dict[str, Any],
    tape: Tape,
    recorder: Recorder,
    held: dict[str, bytes],
) -> list[dict[str, Any]]:
    """What one call of the entry launches; `held` are stand-ins."""
    tape.take()
    recorder.begin(held)
    entry(*arguments, **parameters)
    return [event["launch"] for event in tape.take() if "launch" in event]


def _arguments(shape: dict[str, Any], folder: Path, space: AddressSpace) -> list[torch.Tensor]:
    arguments = []
    for layout in shape["tensors"]:
        tensor = torch.empty(layout["sizes"], dtype=getattr(torch, layout["dtype"]))
        file = shape["values"].get(layout["name"])
        if file is not None and tensor.numel():
            data = bytearray((folder / file).read_bytes())
            tensor.view(torch.uint8).reshape(-1).copy_(torch.frombuffer(data, dtype=torch.uint8))
        space.name(tensor, layout["name"], real=file is not None)
        arguments.append(tensor)
    return arguments


def values(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """Trusted job: the integer inputs of a timing shape, as files of their bytes named like the tensors.

    payload: task (a dump), shape (a dump), family, seed. Without a make_integers hook the other inputs are made
    too, and thrown away.
    """
    from kopt.evaluate import hooks
    from kopt.evaluate.tensors import pack
    from kopt.records import Shape, Task

    task, shape = Task.model_validate(payload["task"]), Shape.model_validate(payload["shape"])
    module = hooks.load(task)
    make = getattr(module, "make_integers", module.make_inputs)
    made = make(dict(shape.dims), payload["family"], payload["seed"], "cpu")
    names = steering([{"name": t.name, "dtype": t.dtype, "sizes": list(t.sizes(shape.dims))} for t in task.inputs])
    found = {name: made[name] for name in names}
    if hasattr(module, "stand_ins"):
        for tensor in module.stand_ins(dict(shape.dims), payload["family"], payload["seed"]).values():
            found[stand_in(tensor)] = tensor
    for name, tensor in found.items():
        (folder / f"{name}.values").write_bytes(pack([tensor]))
    return {"names": list(found)}


def stand_in(tensor: torch.Tensor) -> str:
    """What a stand-in goes by: dtype and sizes."""
    return ".".join((_STAND_IN, str(tensor.dtype).removeprefix("torch."), *map(str, tensor.shape)))


def steering(layouts: list[Layout]) -> list[str]:
    """Tensors whose values can steer a kernel: ids, counts, offsets, tables, masks."""
    return [item["name"] for item in layouts if item["dtype"] in STEERING]


def _gluon(tape: Tape) -> None:
    """Gluon kernels are beyond the interpreter: their launches are noted, not counted."""
    with suppress(ImportError):
        from triton.experimental.gluon._runtime import GluonJITFunction

        def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            bound = dict(zip(self.arg_names, args, strict=False)) | kwargs
            size = grid(bound) if callable(grid) else grid
            dims = tuple(int(n) for n in (size if isinstance(size, tuple | list) else (size,)))
            tape.add({"launch": {"name": self.fn.__name__, "grid": [*dims, 1, 1][:3], "uncounted": "Gluon"}})

        GluonJITFunction.run = run


def _line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."
