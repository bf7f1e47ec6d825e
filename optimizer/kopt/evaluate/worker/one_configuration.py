"""Autotuned kernels are traced with the first configuration that compiles and fits: one compilation, not a hundred.

Classes of facts hold for every configuration; spills and shared memory belong to this one, and a note says which it is.
Nothing of the search counts as work of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.runtime.autotuner as autotuner
import triton.testing

from kopt.evaluate.worker.stub_driver import benchmark_once
from kopt.evaluate.worker.tape import Tape


def install(tape: Tape) -> None:
    """Patch Triton's autotuner and benchmarks in this process."""
    run, bench = autotuner.Autotuner.run, autotuner.Autotuner._bench

    def first(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._kopt_tried, self._kopt_found = 0, None
        self.cache_results = False  # its key would run ptxas
        result = run(self, *args, **kwargs)
        if self._kopt_found is not None:
            tape.note(
                f"autotune: {self.base_fn.__name__} traced with configuration {self._kopt_tried} of "
                f"{len(self.configs)}, the first that compiles ({self._kopt_found})"
            )
        return result

    def once(self: Any, *args: Any, config: Any, **meta: Any) -> Any:
        if getattr(self, "_kopt_found", None) is not None:
            return [float("inf")] * 3
        self._kopt_tried += 1
        with tape.paused():
            times = bench(self, *args, config=config, **meta)
        if times[0] != float("inf"):
            self._kopt_found = config
        return times

    autotuner.Autotuner.run, autotuner.Autotuner._bench = first, once

    def paused_benchmark(call: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        with tape.paused():
            return benchmark_once(call, quantiles=kwargs.get("quantiles"))

    triton.testing.do_bench = triton.testing.do_bench_cudagraph = paused_benchmark
