"""A published kernel as a `torch.library` custom op.

op = kopt.load("fp8_gemm")
out = op(a, b, scale_a, scale_b)            # allocates its outputs
op.out(a, b, scale_a, scale_b, out)         # writes to yours
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt import content
from kopt.errors import MachineError, UsageError
from kopt.machine.products import match, product
from kopt.publish.compose import dimension
from kopt.publish.record import Published, find, sha256
from kopt.records import Task, conditions
from kopt.records.task import TensorSpec
from kopt.source import read

if TYPE_CHECKING:
    import torch


class Op:
    """Callable on the task's inputs; `out` takes inputs, then outputs. Both are custom ops, opaque to torch.compile."""

    def __init__(self, task: Task, call: Callable[..., Any], out: Callable[..., None]) -> None:
        self.task, self._call, self.out = task, call, out

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The task's outputs, newly allocated: one tensor, or a tuple in the task's order."""
        return self._call(*inputs)

    def __repr__(self) -> str:
        arguments = ", ".join(t.name for t in self.task.inputs)
        return f"<kopt.load({self.task.name!r}): {self.task.entry}({arguments})>"


def load(name: str, *, target: str | None = None, workspace: Path | None = None) -> Op:
    """The published kernel of a task, for whichever GPU its tensors are on.

    `target` names a product whose kernel is to be used on any device. UsageError when nothing is published;
    MachineError, here or when called, on a GPU that nothing was published for.
    """
    root = content.workspace(workspace)
    task = content.load_task(name, root)
    found = find(name, root)
    if not found:
        raise UsageError(f"no kernel of {name} is published; kopt publish RUN/N makes one")
    chosen = product(target).key if target else ""
    if chosen and chosen not in found:
        raise MachineError(_unpublished(name, product(chosen).name, found))
    if not chosen:
        import torch

        if torch.cuda.is_available():
            here = _product_of(torch.device("cuda", torch.cuda.current_device()), name, found)
            if here not in found:
                raise MachineError(_unpublished(name, product(here).name, found))
    return _registered(task, found, chosen)


def _registered(task: Task, found: Mapping[str, tuple[Path, Published]], target: str) -> Op:
    """Registered once per content: an op's name can be given only once in a process."""
    contents = [f"{key} {record.sha256} {path}" for key, (path, record) in sorted(found.items())]
    label = f"{task.name}_{sha256(' '.join([task.sha, target, *contents]))[:8]}"
    if label not in _OPS:
        _OPS[label] = _register(label, task, _Kernels(task, found, target))
    return _OPS[label]


_OPS: dict[str, Op] = {}


class _Kernels:
    """The entries of a task's published files, by the device they are called on."""

    def __init__(self, task: Task, found: Mapping[str, tuple[Path, Published]], target: str) -> None:
        self._task, self._found, self._target = task, found, target
        self._by_device: dict[str, Callable[..., object]] = {}

    def on(self, device: torch.device) -> Callable[..., object]:
        if str(device) not in self._by_device:
            key = self._target or _product_of(device, self._task.name, self._found)
            if key not in self._found:
                raise MachineError(_unpublished(self._task.name, product(key).name, self._found))
            self._by_device[str(device)] = _entry(self._task, *self._found[key])
        return self._by_device[str(device)]


def _product_of(device: torch.device, name: str, found: Mapping[str, object]) -> str:
    import torch

    if device.type != "cuda":
        raise MachineError(f"{name}: its kernel runs on NVIDIA GPUs, and these tensors are on {device.type}")
    called = torch.cuda.get_device_name(device)
    known = match(called)
    if known is None:
        raise MachineError(_unpublished(name, called, found))
    return known.key


def _unpublished(name: str, gpu: str, found: Mapping[str, object]) -> str:
    there = ", ".join(product(key).name for key in sorted(found))
    return f"{name}: no kernel is published for {gpu}, only for {there}; load({name!r}, target=...) takes one of those"


def _entry(task: Task, path: Path, record: Published) -> Callable[..., object]:
    text = read(path)
    if sha256(text) != record.sha256:
        warnings.warn(f"{path} is not the file that was published: its numbers are of another one", stacklevel=5)
    # A module of its own under a real file name: Triton reads the source of its kernels.
    name = f"_kopt_published_{task.name}_{record.target.replace('-', '_')}_{sha256(text)[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    entry: Callable[..., object] = getattr(module, task.entry)
    return entry


def _register(label: str, task: Task, kernels: _Kernels) -> Op:
    import torch

    inputs, outputs = task.inputs, task.outputs

    def write(given: Mapping[str, torch.Tensor]) -> None:
        for spec in task.tensors:
            _fits(task, spec, given)
        tied(task, given)
        kernels.on(given[inputs[0].name].device)(*(given[t.name] for t in task.tensors))

    def made(given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        first = given[inputs[0].name]
        return [
            torch.empty([_size(task, d, given) for d in t.dims], dtype=getattr(torch, t.dtype), device=first.device)
            for t in outputs
        ]

    def call(*tensors: torch.Tensor) -> Any:
        given = _named(task, inputs, tensors)
        out = made(given)
        write({**given, **{t.name: tensor for t, tensor in zip(outputs, out, strict=True)}})
        return out[0] if len(out) == 1 else tuple(out)

    def fake(*tensors: torch.Tensor) -> Any:
        out = made(_named(task, inputs, tensors))
        return out[0] if len(out) == 1 else tuple(out)

    def into(*tensors: torch.Tensor) -> None:
        write(_named(task, (*inputs, *outputs), tensors))

    arguments = ", ".join(f"Tensor {t.name}" for t in inputs)
    results = "Tensor" if len(outputs) == 1 else f"({', '.join(['Tensor'] * len(outputs))})"
    whole = torch.library.custom_op(f"kopt::{label}", call, mutates_args=(), schema=f"({arguments}) -> {results}")
    whole.register_fake(fake)
    written = ", ".join(f"Tensor(a{i}!) {t.name}" for i, t in enumerate(outputs))
    out = torch.library.custom_op(
        f"kopt::{label}_out",
        into,
        mutates_args=[t.name for t in outputs],
        schema=f"({arguments}, {written}) -> ()",
    )
    out.register_fake(lambda *tensors: None)
    return Op(task, whole, out)


def _named(task: Task, specs: tuple[TensorSpec, ...], tensors: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    return {spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)}


def _size(task: Task, dim: str | int, given: Mapping[str, torch.Tensor]) -> int:
    if isinstance(dim, int):
        return dim
    name, axis = dimension(task, dim)
    size: int = given[name].shape[axis]
    return size


def _fits(task: Task, spec: TensorSpec, given: Mapping[str, torch.Tensor]) -> None:
    """ValueError when a tensor is not what the kernel was checked with."""
    tensor = given[spec.name]
    if str(tensor.dtype) != f"torch.{spec.dtype}":
        raise ValueError(f"{task.name}: {spec.name} is {tensor.dtype}, not {spec.dtype}")
    want = tuple(_size(task, d, given) for d in spec.dims) if tensor.dim() == len(spec.dims) else spec.dims
    if tuple(tensor.shape) != want:
        raise ValueError(f"{task.name}: {spec.name} has shape {list(tensor.shape)}, not {list(want)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{task.name}: {spec.name} is not contiguous in row-major order")
    for dim, size in zip(spec.dims, tensor.shape, strict=True):
        rule = task.dims[dim] if isinstance(dim, str) else None
        if rule and (size % rule.multiple_of or size < rule.min or (rule.max is not None and size > rule.max)):
            most = "" if rule.max is None else f" and at most {rule.max}"
            raise ValueError(
                f"{task.name}: {dim} = {size} in {spec.name}, but it must be a multiple of {rule.multiple_of}, "
                f"at least {rule.min}{most}"
            )


def tied(task: Task, given: Mapping[str, torch.Tensor]) -> None:
    """ValueError when sizes are not tied together as the task demands."""
    for condition in task.requires:
        sizes = {dim: _size(task, dim, given) for dim in sorted(conditions.names(condition))}
        if not conditions.holds(condition, sizes):
            found = ", ".join(f"{dim} = {size}" for dim, size in sizes.items())
            raise ValueError(f"{task.name}: {found}, but it must be that {condition}")
