"""Autotuned kernels: nothing is timed here, the first configuration that survives pruning is taken.

Tracing takes the first that compiles, which is the same one unless an earlier one does not fit.
"""

from __future__ import annotations

from typing import Any

from triton.runtime.autotuner import Autotuner

from kopt.evaluate.worker.tape import Tape


def install(tape: Tape) -> None:
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        configs = self.prune_configs(kwargs) if len(self.configs) > 1 else self.configs
        config = next(iter(configs))
        self.best_config = config
        if len(configs) > 1:
            tape.note(f"{self.base_fn.__name__} is autotuned: its first configuration was counted")
        with tape.paused():
            self.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()}, reset_only=True)
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        result = self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None
        return result

    Autotuner.run = run
