"""A Triton driver for a GPU that is not there: whoever asks it for a device gets the target's properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import GPUDriver

from kopt.machine.products import Product


class StubDriver(GPUDriver):  # type: ignore[misc]
    """One device: the target. Nothing here reaches for CUDA."""

    def __init__(self, target: Product) -> None:
        self._arch = target.arch
        self.utils = _Utils(target)
        self.launcher_cls = None
        self.get_device_capability = lambda device=0: divmod(self._arch, 10)
        self.get_current_stream = lambda device=0: 0
        self.get_current_device = lambda: 0
        self.set_current_device = lambda device: None

    @staticmethod
    def is_active() -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "CUdeviceptr" if ty.startswith("*") else ty

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", self._arch, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_benchmarker(self) -> Callable[..., list[float]]:
        return benchmark_once

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(1)

    def clear_cache(self, cache: Any) -> None: ...


class _Utils:
    def __init__(self, target: Product) -> None:
        self._properties = {
            "max_shared_mem": target.shared_per_block,
            "max_num_regs": target.registers_per_sm,
            "multiprocessor_count": target.sms,
            "warpSize": 32,
            "sm_clock_rate": int(target.max_clock_mhz * 1000),
            "mem_clock_rate": 0,
            "mem_bus_width": 0,
        }

    def get_device_properties(self, device: int) -> dict[str, int]:
        return self._properties

    def __getattr__(self, name: str) -> Callable[..., None]:
        # What else there is differs between versions of Triton, and none of it computes.
        return lambda *args, **kwargs: None


def benchmark_once(kernel_call: Callable[[], Any], *args: Any, quantiles: Any = None, **kwargs: Any) -> Any:
    """Stands in for do_bench: whatever runs takes a millisecond."""
    kernel_call()
    return [1.0] * len(quantiles) if quantiles else 1.0
