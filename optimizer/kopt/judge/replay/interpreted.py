"""Follows a recipe without a GPU: Triton's interpreter stands for the device.

There is no cubin to launch, so the file is imported for its kernels. The rest is the recipe's: order, grid, arguments
placed in other tensors, workspaces, fills.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kopt.evaluate.recipe import Argument, Recipe, Step
from kopt.judge.replay import Tensor, Unreplayable


class InterpretedDevice:
    """Time is the host's."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._us = folder, 0.0

    def follower(self, recipe: Recipe, images: Mapping[str, bytes], source: str | None) -> InterpretedFollower:
        return InterpretedFollower(recipe, source or "", self._folder)

    def timed(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            started = time.perf_counter_ns()
            work()
            self._us = (time.perf_counter_ns() - started) / 1e3

        return run

    def elapsed_us(self) -> float:
        return self._us


class InterpretedFollower:
    """Kernels by name, from the source itself."""

    def __init__(self, recipe: Recipe, source: str, folder: Path) -> None:
        import torch

        from kopt.judge.runner import load

        self._torch, self._recipe = torch, recipe
        self.omitted: frozenset[int] = frozenset()
        self._kernels = _kernels(vars(load(source, folder)))
        self._workspaces = [torch.zeros(max(1, n), dtype=torch.uint8) for n in recipe.workspaces]
        for step in recipe.steps:
            if step.cubin and step.name not in self._kernels:
                raise Unreplayable(f"{step.name} is no kernel that the interpreter runs")
            if any(a.kind == "constexpr" and a.type == "repr" for a in step.arguments):
                raise Unreplayable(f"{step.name} takes a constexpr that cannot be written down")

    def __call__(self, *tensors: Tensor) -> None:
        for number, step in enumerate(self._recipe.steps):
            if number not in self.omitted:
                self._do(step, tensors)

    def reset(self) -> None:
        for workspace in self._workspaces:
            workspace.zero_()

    def _do(self, step: Step, tensors: Sequence[Tensor]) -> None:
        if not step.cubin:
            (target,) = step.arguments
            value = float(target.value) if isinstance(target.value, str) else target.value
            self._memory(target, tensors)[: step.extent].fill_(value)
            return
        self._kernels[step.name][step.grid](*(self._value(a, tensors) for a in step.arguments))

    def _value(self, argument: Argument, tensors: Sequence[Tensor]) -> Any:
        if argument.kind == "constexpr":
            return argument.value
        if argument.kind == "scalar":
            return float(argument.value) if isinstance(argument.value, str) else argument.value
        if argument.buffer is None:
            return None
        memory = self._memory(argument, tensors)
        if argument.kind == "pointer":
            return memory
        from triton.tools.tensor_descriptor import TensorDescriptor

        base = memory.as_strided(argument.shape, argument.strides)
        return TensorDescriptor(base, list(argument.shape), list(argument.strides), list(argument.block))

    def _memory(self, argument: Argument, tensors: Sequence[Tensor]) -> Tensor:
        """From an argument's place to its buffer's end, as elements of its type."""
        assert argument.buffer is not None
        number = argument.buffer
        whole = tensors[number] if number < len(tensors) else self._workspaces[number - len(tensors)]
        dtype = getattr(self._torch, argument.dtype)
        rest = whole.view(-1).view(self._torch.uint8)[argument.offset :]
        return rest[: rest.numel() // dtype.itemsize * dtype.itemsize].view(dtype)


def _kernels(names: Mapping[str, Any]) -> dict[str, Any]:
    """What is launched, beneath autotuners and heuristics, by the name that it was written with."""
    found = {}
    for value in names.values():
        inner = value
        while inner is not None and type(inner).__name__ != "InterpretedFunction":
            inner = getattr(inner, "fn", None) if hasattr(inner, "run") else None
        if inner is not None:
            found[inner.fn.__name__] = inner
    return found
