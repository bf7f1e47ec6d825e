"""The judge without a GPU: shared memory for buffers and the monotonic clock for time.

The same protocol, processes and checks as on a GPU, so that every one of them can be tried anywhere. Its times say
nothing about a GPU and are never called utilization.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Mapping

from kopt.judge import protocol
from kopt.judge.backends import Activity, Sample, Tensor


class CpuJudge:
    """Memory of this machine."""

    name = "cpu"
    device = "cpu"
    sharing = "memfd, its descriptor over a Unix socket"
    measures = False
    cache_bytes = 0
    max_clock_mhz: float | None = None

    def __init__(self, device: str) -> None:
        self._lock_name = device
        self._started = self._marked = 0

    def identity(self) -> str:
        return f"cpu-{self._lock_name}" if self._lock_name else ""

    def open(self) -> None:
        import torch

        torch.set_num_threads(1)

    def share(self, nbytes: int) -> tuple[Tensor, int]:
        fd = protocol.memory("kopt-buffer", nbytes)
        return _tensor(fd, nbytes), fd

    def release(self, shared: Tensor) -> None:
        pass  # the mapping goes with the tensor

    def free_bytes(self) -> int:
        return 256 << 20

    def own_bytes(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def start(self) -> None:
        self._started = time.perf_counter_ns()

    def mark(self) -> None:
        self._marked = time.perf_counter_ns()

    def stop(self) -> tuple[float, float]:
        return (self._marked - self._started) / 1e3, (time.perf_counter_ns() - self._started) / 1e3

    def watch(self, seconds: float, *, count: bool = False) -> None:
        pass  # a CPU's clock says nothing about a GPU

    def sample(self, since: int, until: int) -> Sample:
        return Sample()

    def activity(self) -> Activity | None:
        return None

    def telemetry(self) -> Mapping[str, str]:
        return {}

    def witness(self) -> float:
        # The operating system divides the cores; other processes say nothing about this one.
        return 0.0

    def heat(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


class CpuRunner:
    """Kernels are plain functions on CPU tensors, or Triton's interpreter."""

    device = "cpu"
    refusal = ""

    def wake(self) -> None:
        pass

    def attach(self, fd: int, nbytes: int) -> Tensor:
        from kopt.evaluate.worker import rounding

        rounding.install()  # the interpreter rounds as a GPU does, here as in the stage "numerics"
        return _tensor(fd, nbytes)

    def touch(self) -> None:
        pass

    def busy(self, us: float) -> Callable[[], float]:
        # Calls are over when they return: how long they took changes nothing about how that is noticed.
        return lambda: 0.0

    def settle(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def capture(self, calls: Callable[[], None]) -> Callable[[], None] | None:
        # There are no graphs here: a batch that is to be one is made call by call, at GO.
        return calls


def _tensor(fd: int, nbytes: int) -> Tensor:
    import torch

    return torch.frombuffer(mmap.mmap(fd, nbytes), dtype=torch.uint8)
