"""Jobs of a trusted child that run a task's hooks: make inputs and expected values, and compare outputs with them.

A call is known by its number; its tensors are the files <n>.in, <n>.want (expected values, then bounds, float64) and
<n>.out in the job's folder, in the form of tensors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kopt.errors import UsageError
from kopt.evaluate import hooks
from kopt.evaluate.compare import Limits, compare
from kopt.evaluate.tensors import Layout, layout, pack, unpack
from kopt.records import Finding, Shape, Status, Task, TensorSpec

if TYPE_CHECKING:
    import torch

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Tensors = dict[str, "torch.Tensor"]


def prepare(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """payload: task, seed, calls = [[shape, family], ...]. Writes <n>.in and <n>.want for each call.

    UsageError names the hook that does not keep the contract of tasks.
    """
    task = Task.model_validate(payload["task"])
    module = hooks.load(task)
    for number, (dump, family) in enumerate(payload["calls"]):
        shape = Shape.model_validate(dump)
        inputs, want, bound = problem(task, module, shape, family, payload["seed"])
        (folder / f"{number}.in").write_bytes(pack([inputs[s.name] for s in task.inputs]))
        (folder / f"{number}.want").write_bytes(pack([*want.values(), *bound.values()]))
    return {}


def compare_all(payload: dict[str, Any], folder: Path, ask: Ask) -> dict[str, Any]:
    """payload: task, calls = [[shape, family], ...]. Reads <n>.want and <n>.out, and <n>.in for a task's own check.

    Returns {"calls": [{"findings": [...], "relative_rms": x, "of_bound": y}, ...]}, in the order of the calls.
    """
    task = Task.model_validate(payload["task"])
    module = hooks.load(task)
    check = getattr(module, "check", None)
    results: list[dict[str, Any]] = []
    for number, (dump, family) in enumerate(payload["calls"]):
        shape = Shape.model_validate(dump)
        got = unpack((folder / f"{number}.out").read_bytes(), layout(task.outputs, shape.dims))
        both = unpack((folder / f"{number}.want").read_bytes(), _answers(task, shape))
        want = {s.name: both[s.name] for s in task.outputs}
        if check is not None:
            inputs = unpack((folder / f"{number}.in").read_bytes(), layout(task.inputs, shape.dims))
            found = _hook(task, "check", check, inputs, got, want, dict(shape.dims), family)
            findings = [_finding(item, shape, family) for item in found]
            results.append({"findings": findings, "relative_rms": None, "of_bound": None})
            continue
        comparisons = [
            compare(
                s.name,
                got[s.name],
                want[s.name],
                Limits(task.tolerance.relative_rms, both[f"{s.name} bound"], family in task.tolerance.exact_inputs),
                shape=shape.name,
                family=family,
            )
            for s in task.outputs
        ]
        results.append(
            {
                "findings": [c.finding.model_dump(mode="json") for c in comparisons if c.finding],
                "relative_rms": _json(max(c.relative_rms for c in comparisons)),
                "of_bound": _json(max(c.of_bound for c in comparisons)),
            }
        )
    return {"calls": results}


def problem(
    task: Task, module: ModuleType, shape: Shape, family: str, seed: int, device: str = "cpu"
) -> tuple[Tensors, Tensors, Tensors]:
    """Inputs, expected outputs and bounds on their errors (the latter two float64), by tensor name.

    Without a `bound` hook an element may be wrong by the tolerated relative RMS error of itself plus eight times that
    of the output's RMS.
    """
    import torch

    dims = dict(shape.dims)
    inputs: Tensors = _hook(task, "make_inputs", module.make_inputs, dims, family, seed, device)
    _keeps(task, "make_inputs", task.inputs, dims, inputs, dtypes=True)
    want: Tensors = _hook(task, "reference", module.reference, inputs, dims)
    _keeps(task, "reference", task.outputs, dims, want, dtypes=False)
    want = {name: value.to(torch.float64) for name, value in want.items()}
    if hasattr(module, "bound"):
        bound: Tensors = _hook(task, "bound", module.bound, inputs, want, dims)
        _keeps(task, "bound", task.outputs, dims, bound, dtypes=False)
        bound = {name: value.to(torch.float64) for name, value in bound.items()}
    else:
        limit = task.tolerance.relative_rms
        bound = {name: limit * (v.abs() + 8 * v.square().mean().sqrt()) for name, v in want.items()}
    return inputs, want, {name: bound[name] for name in want}


def _hook(task: Task, name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        raise UsageError(f"task {task.name}: {name}() raised {type(error).__name__}: {error}") from error


def _keeps(
    task: Task, hook: str, specs: tuple[TensorSpec, ...], dims: Mapping[str, int], found: Tensors, *, dtypes: bool
) -> None:
    names = [s.name for s in specs]
    if not isinstance(found, dict) or set(found) != set(names):
        raise UsageError(f"task {task.name}: {hook}() must return a dictionary of {', '.join(names)}")
    for spec in specs:
        tensor, sizes = found[spec.name], spec.sizes(dims)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tuple(tensor.shape) != sizes:
            raise UsageError(
                f"task {task.name}: {hook}(): {spec.name} is {tuple(tensor.shape)}, task.toml says {sizes}"
            )
        if dtypes and dtype != spec.dtype:
            raise UsageError(f"task {task.name}: {hook}(): {spec.name} is {dtype}, task.toml says {spec.dtype}")


def _answers(task: Task, shape: Shape) -> list[Layout]:
    sizes = {s.name: list(s.sizes(shape.dims)) for s in task.outputs}
    want = [Layout(name=name, dtype="float64", sizes=size) for name, size in sizes.items()]
    return want + [Layout(name=f"{name} bound", dtype="float64", sizes=size) for name, size in sizes.items()]


def _finding(item: Mapping[str, Any], shape: Shape, family: str) -> dict[str, Any]:
    """A finding of a task's own check, with what it need not say filled in."""
    place = " ".join(filter(None, (family, str(item.get("place", "")))))
    filled = {"rule": "numerics.check", "status": Status.WRONG, **item, "shape": shape.name, "place": place}
    return Finding.model_validate(filled).model_dump(mode="json")


def _json(value: float) -> float | None:
    """JSON has neither NaN nor infinities."""
    return value if abs(value) < float("inf") else None
