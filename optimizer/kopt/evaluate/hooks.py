"""Loads the hooks beside a task's task.toml. They are the task author's code, as trusted as kopt itself.

    make_inputs(dims, family, seed, device)     the inputs by name; a seed gives the same on one device
    reference(inputs, dims)                     expected outputs by name, to be compared in float64
    cost(dims) or cost(dims, family)            useful FLOPs, compulsory bytes read and written; without torch

    bound(inputs, expected, dims)               largest error allowed to each element, by output
    check(inputs, got, want, dims, family)      a comparison of the task's own: findings as dictionaries
    check_slices(inputs, got, dims, family, dim, index)
                                                the same of the outputs' given indices along one dimension
    baseline(*tensors)                          the entry of what measurements are compared with: a vendor library
    make_integers(dims, family, seed, device)   the integer inputs that make_inputs would make, without the others
    stand_ins(dims, family, seed)               integers that a kernel finds from floats on its way, for predict:
                                                tensors of the same dtype and sizes are taken to hold them
    slices(inputs, dims, dim, index)            (expected, bound) of the outputs' given indices along one dimension
    slices_of_calls(several, dims, dim, index)  the same of the inputs of several calls, stacked along a first dimension

and two constants that the judge goes by: GROUPS, inputs that belong together, and SEPARABLE, dimensions of the outputs
that can be checked index by index: by slicing the inputs alike or, where that does not do, with `slices`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from kopt.errors import UsageError
from kopt.records import Cost, Shape, Task

REQUIRED = ("make_inputs", "reference", "cost")
OPTIONAL = ("bound", "check", "check_slices", "baseline", "make_integers", "stand_ins", "slices", "slices_of_calls")


def load(task: Task) -> ModuleType:
    """The module of task.py, imported once under a private name; UsageError names what it lacks."""
    name = f"_kopt_task_{task.name}_{task.sha[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    path = Path(task.folder) / "task.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"task {task.name}: {path} does not exist; a task needs task.py beside task.toml")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"task {task.name}: {path} does not import: {type(error).__name__}: {error}") from error
    if missing := [hook for hook in REQUIRED if not callable(getattr(module, hook, None))]:
        del sys.modules[name]
        raise UsageError(f"task {task.name}: {path} lacks {', '.join(missing)}")
    return module


def cost(task: Task, shape: Shape) -> Cost:
    """The task's own count of useful FLOPs and compulsory bytes for a shape, with the inputs that it is timed with."""
    count = load(task).cost
    asked = (dict(shape.dims), task.timed_family(shape))
    return Cost(**cast(dict[str, float], count(*asked[: len(inspect.signature(count).parameters)])))
