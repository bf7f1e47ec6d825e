"""An NVIDIA GPU through torch for work and events, cuda-bindings for memory that two processes map, NVML for telemetry.

Memory is shared as `cuMemCreate` allocations whose POSIX descriptors travel over a Unix socket: unlike a legacy IPC
handle the descriptor names this allocation alone. Both survive a change of uid (docs/judge-feasibility.md).
The process sees one GPU, chosen by UUID through CUDA_VISIBLE_DEVICES before it starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kopt.errors import DeviceTaken, MachineError
from kopt.judge.backends import Activity, Sample, Tensor, nvml
from kopt.judge.telemetry import together

_WITNESS_BYTES = 512 << 20
_FILL_BYTES = 64 << 20
"""Takes the device longer than the host takes to ask for it."""
_WITNESS_COPIES = 16
"""About 4 ms at 4 TB/s: longer than the time slice a busy neighbour would take."""


class CudaJudge:
    """The GPU with this UUID."""

    name = "cuda"
    device = "cuda"
    sharing = "cuMemCreate, its descriptor over a Unix socket"
    measures = True

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self.cache_bytes = 0
        self.max_clock_mhz: float | None = None
        self._nvml: Any = None
        self._heater: Any = None
        self._shared: dict[int, tuple[int, Any]] = {}

    def identity(self) -> str:
        return self._uuid

    def open(self) -> None:
        self._open_nvml()
        try:
            import torch

            torch.zeros(1, device="cuda")
        except (ImportError, RuntimeError, AssertionError) as error:
            raise MachineError(f"the GPU cannot be opened: {str(error).splitlines()[0]}") from error
        self.cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
        self._torch = torch
        self._begin, self._mark, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._witness = torch.zeros(2, _WITNESS_BYTES, dtype=torch.uint8, device="cuda")

    def _open_nvml(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MachineError("nvidia-ml-py is not installed: pip install 'kopt-gpu[gpu]'") from error
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            mode = pynvml.nvmlDeviceGetComputeMode(handle)
            others = [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            self.max_clock_mhz = float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM))
        except pynvml.NVMLError as error:
            raise MachineError(f"NVML does not answer for GPU {self._uuid}: {error}") from error
        if mode != pynvml.NVML_COMPUTEMODE_DEFAULT:
            raise MachineError(
                "the GPU is in exclusive compute mode, but judge and runner need a context each: nvidia-smi -c 0"
            )
        if mps := _mps():
            raise MachineError(
                f"MPS runs on this machine (process {mps}) and would lay the contexts of judge and runner into one: "
                f"echo quit | nvidia-cuda-mps-control"
            )
        if others:
            raise DeviceTaken(
                f"the GPU is busy: process {', '.join(map(str, others))} computes on it; wait, or choose another"
            )
        self._nvml = pynvml
        self._reader, self._watcher = nvml.Nvml(self._uuid), nvml.start(self._uuid)

    def share(self, nbytes: int) -> tuple[Tensor, int]:
        try:
            return self._share(nbytes)
        except RuntimeError as error:
            if isinstance(error, self._torch.OutOfMemoryError):
                raise
            raise MachineError(
                f"processes cannot share this GPU's memory here ({error}), and kopt measures in two of them: it needs "
                "cuMemCreate with POSIX file descriptors, which some virtual GPUs lack; --modelled does without"
            ) from None

    def _share(self, nbytes: int) -> tuple[Tensor, int]:
        from cuda.bindings import driver

        prop = _properties(driver)
        granularity = _ok(driver.cuMemGetAllocationGranularity(
            prop, driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM))  # fmt: skip
        size = -(-nbytes // granularity) * granularity
        handle = _ok(driver.cuMemCreate(size, prop, 0))
        fd = int(_ok(driver.cuMemExportToShareableHandle(handle, prop.requestedHandleTypes, 0)))
        pointer = _map(driver, handle, size)
        self._shared[pointer] = size, handle
        return _tensor(pointer, size)[:nbytes], fd

    def release(self, shared: Tensor) -> None:
        from cuda.bindings import driver

        pointer = shared.data_ptr()
        size, handle = self._shared.pop(pointer)
        self.synchronize()
        _ok(driver.cuMemUnmap(pointer, size))
        _ok(driver.cuMemRelease(handle))
        _ok(driver.cuMemAddressFree(pointer, size))

    def free_bytes(self) -> int:
        self._torch.cuda.empty_cache()
        return int(self._torch.cuda.mem_get_info()[0])

    def own_bytes(self) -> int:
        return int(self._torch.cuda.memory_allocated())

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def start(self) -> None:
        self._begin.record()

    def mark(self) -> None:
        self._mark.record()

    def stop(self) -> tuple[float, float]:
        self._end.record()
        self._end.synchronize()
        return 1e3 * float(self._begin.elapsed_time(self._mark)), 1e3 * float(self._begin.elapsed_time(self._end))

    def watch(self, seconds: float, *, count: bool = False) -> None:
        self._watcher.watch(seconds, count=count)

    def sample(self, since: int, until: int) -> Sample:
        # A batch can be over before the first reading: then what comes right after it has to do.
        return self._watcher.seen(since, until) or replace(together([self._reader.read()]) or Sample(), readings=0)

    def activity(self) -> Activity | None:
        return self._watcher.activity

    def telemetry(self) -> Mapping[str, str]:
        return {"activity counters": self._watcher.no_counters or "up"}

    def witness(self) -> float:
        source, target = self._witness
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(_WITNESS_COPIES):
            target.copy_(source)
        end.record()
        end.synchronize()
        return 1e3 * float(begin.elapsed_time(end))

    def heat(self, seconds: float) -> None:
        torch, end = self._torch, time.monotonic() + seconds
        if self._heater is None:
            self._heater = torch.randn(2, 4096, 4096, device="cuda").bfloat16()
        a, b = self._heater
        while time.monotonic() < end:
            for _ in range(50):
                torch.mm(a, b)
            self.synchronize()

    def close(self) -> None:
        if self._nvml is not None:
            self._watcher.close()
            self._nvml.nvmlShutdown()


class CudaRunner:
    """The same GPU from the other side."""

    device = "cuda"
    refusal = ""

    def wake(self) -> None:
        import torch

        self._torch = torch
        self._one = torch.ones(1, device="cuda")
        self._event = torch.cuda.Event()
        self._pool: Any = None
        self._fill: Any = None
        self._fill_us = math.inf

    def attach(self, fd: int, nbytes: int) -> Tensor:
        from cuda.bindings import driver

        prop = _properties(driver)
        granularity = _ok(driver.cuMemGetAllocationGranularity(
            prop, driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM))  # fmt: skip
        size = -(-nbytes // granularity) * granularity
        handle = _ok(driver.cuMemImportFromShareableHandle(fd, prop.requestedHandleTypes))
        return _tensor(_map(driver, handle, size), size)[:nbytes]

    def touch(self) -> None:
        self._one.fill_(1.0)
        self.synchronize()

    def busy(self, us: float) -> Callable[[], float]:
        if self._fill is None:
            self._fill = self._torch.empty(_FILL_BYTES, dtype=self._torch.uint8, device="cuda")
            self._span = tuple(self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._fill.fill_(1)  # the first one has a kernel to load
            self.synchronize()
        begin, end = self._span
        count = max(1, round(us / self._fill_us))
        begin.record()
        for _ in range(count):
            self._fill.fill_(1)
        end.record()

        def took() -> float:
            spent = 1e3 * float(begin.elapsed_time(end))
            # The least that was seen: a host that stalls between two of them makes none of them longer.
            self._fill_us = min(self._fill_us, spent / count)
            return spent

        return took

    def settle(self) -> None:
        # Looking at an event notices the end 70 us sooner than the driver's wait for all streams.
        self._event.record()
        while not self._event.query():
            pass

    def synchronize(self) -> None:
        self.settle()
        self._torch.cuda.synchronize()

    def capture(self, calls: Callable[[], None]) -> Callable[[], None] | None:
        torch = self._torch
        torch.cuda.synchronize()
        graph, begun = torch.cuda.CUDAGraph(), False
        # One pool for all of them: a pool of its own would outlive each graph, until there is no memory left.
        old, self._pool = self._pool, self._pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                begun = True
                calls()
        except Exception as error:
            # A kernel that synchronizes or allocates outside torch cannot be captured. That is its right. What torch
            # leaves behind of such a capture is in the way of the next: its stream, and a pool that is being recorded.
            self.refusal = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            torch.cuda.set_stream(torch.cuda.default_stream())
            torch.cuda.synchronize()
            self._pool = None
            # What a capture allocates and keeps, as cuBLAS its workspace, outlives its graph. Then torch does not take
            # the pool again, and another has to do.
            return None if begun or old is None else self.capture(calls)
        self._upload(graph)
        replay: Callable[[], None] = graph.replay
        return replay

    def _upload(self, graph: Any) -> None:
        """Bring a graph to the device, which its first launch would else do while the clock runs."""
        handle = getattr(graph, "raw_cuda_graph_exec", None)
        if handle is None:
            return  # of an older torch
        from cuda.bindings import driver

        with suppress(RuntimeError):
            _ok(driver.cuGraphUpload(driver.CUgraphExec(int(handle())), driver.CUstream(0)))
        self.synchronize()


class _Foreign:
    """A device pointer as torch takes it in, through __cuda_array_interface__."""

    def __init__(self, pointer: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
            "strides": None,
        }


def _tensor(pointer: int, size: int) -> Tensor:
    import torch

    return torch.as_tensor(_Foreign(pointer, size), device="cuda")


def _ok(result: tuple[Any, ...]) -> Any:
    if result[0].name == "CUDA_ERROR_OUT_OF_MEMORY":
        import torch

        raise torch.OutOfMemoryError("the CUDA driver has no memory left")
    if int(result[0]) != 0:
        raise RuntimeError(f"the CUDA driver refused: {result[0].name}")
    return result[1] if len(result) > 1 else None


def _properties(driver: Any) -> Any:
    prop = driver.CUmemAllocationProp()
    prop.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    prop.requestedHandleTypes = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    prop.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    prop.location.id = 0
    return prop


def _map(driver: Any, handle: Any, size: int) -> int:
    pointer = _ok(driver.cuMemAddressReserve(size, 0, 0, 0))
    _ok(driver.cuMemMap(pointer, size, 0, handle, 0))
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = 0
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    _ok(driver.cuMemSetAccess(pointer, size, [access], 1))
    return int(pointer)


def _mps() -> str:
    """Process id of a running multi-process service, or ""."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended since
            # The kernel cuts names to 15 characters: nvidia-cuda-mps-control, nvidia-cuda-mps-server.
            if comm.read_text().startswith("nvidia-cuda-mps"):
                return comm.parent.name
    return ""
