"""Triton's interpreter, with a host side as on a GPU: CUDA graphs, autotuned kernels and compiled kernels work.

For the job that computes. Patches the process, which ends with the job.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

from kopt.evaluate.worker import rounding, shims
from kopt.evaluate.worker.stub_driver import StubDriver
from kopt.evaluate.worker.tape import Tape
from kopt.machine.products import Product


class Unavailable(BaseException):
    """The interpreter cannot run this. No `except Exception` of a candidate may turn it into something else."""


class Turn:
    """Which configuration of an autotuned kernel is taken: another for each shape, so that more than one is checked."""

    number = 0


def install(target: Product, tape: Tape, turn: Turn) -> None:
    """Call it before the candidate is imported."""
    rounding.install()
    triton.knobs.compilation.front_end_debugging = True  # exceptions of kernels arrive as they are, with their lines
    triton.runtime.driver.set_active(StubDriver(target))
    shims.install(target, tape)
    _launches(tape)
    _autotuners(turn)
    _gluon()


class Redone(TorchDispatchMode):  # type: ignore[misc]
    """Puts ATen operations on the tape; a replay of a CUDA graph that captured them does them again, in place."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the whole of torch._dynamo, 3 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if func.is_view or name.startswith("empty"):
            return result

        def again() -> None:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)

        self._tape.add({"aten": name}, again)
        return result


def _launches(tape: Tape) -> None:
    original = interpreter.GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        def launch() -> None:
            # What runs here is the kernel, not the host function that the shims are for.
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                original(self, *args, **kwargs)

        tape.add({"launch": self.fn.__name__}, launch)
        if not tape.capturing:
            launch()

    interpreter.GridExecutor.__call__ = call
    run = interpreter.InterpretedFunction.run

    def run_and_return(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> _Compiled:
        run(self, *args, grid=grid, warmup=warmup, **kwargs)
        return _Compiled(self, args, kwargs)

    interpreter.InterpretedFunction.run = run_and_return


class _Compiled:
    """What a launch returns: a kernel that can be launched again without the JIT's dispatch."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        bound = dict(zip(function.arg_names, args, strict=False)) | kwargs
        names = inspect.signature(function.fn).parameters
        self._constants = {n: bound[n] for n, p in names.items() if "constexpr" in str(p.annotation) and n in bound}

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            names = list(self._function.arg_names)
            if len(args) < len(names):  # constants may be left out
                names = [n for n in names if n not in self._constants]
            bound = {**self._constants, **dict(zip(names, args, strict=False)), **kwargs}
            bound.pop("stream", None)
            self._function.run(grid=grid, warmup=False, **bound)

        return launch


def _autotuners(turn: Turn) -> None:
    """Nothing is timed here: each shape has its turn of the configurations."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        configs = list(self.prune_configs(kwargs)) if len(self.configs) > 1 else self.configs
        config = self.best_config = configs[turn.number % len(configs)]
        named = {**self.nargs, **kwargs, **config.all_kwargs()}
        if turn.number not in (seen := self.__dict__.setdefault("_kopt_seen", set())):
            # Triton resets outputs only around its measurements, not in the calls that follow.
            seen.add(turn.number)
            self.pre_hook(named, reset_only=True)
        if config.pre_hook is not None:
            config.pre_hook(named)
        result = self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None
        return result

    Autotuner.run = run


def _gluon() -> None:
    """The interpreter knows nothing of Gluon: a launch ends the job as unavailable instead of looking for a GPU."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Never:
        raise Unavailable(f"{self.fn.__name__} is a Gluon kernel, which Triton's interpreter does not run")

    with suppress(ImportError):
        from triton.experimental.gluon._runtime import GluonJITFunction

        GluonJITFunction.run = run
