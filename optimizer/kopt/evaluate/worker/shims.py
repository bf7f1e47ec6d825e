"""The host side of a GPU that is not there, for candidates written in the field's ordinary ways.

CPU tensors answer as CUDA tensors would, `device="cuda"` allocates on the CPU, torch.cuda has one device: the target.
Nothing here computes. Used by every job that imports a candidate, in a process that ends with the job; so it patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from kopt.evaluate.worker.tape import Graph, Tape
from kopt.machine.products import Product

CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_TOTAL_MEMORY = 80 << 30
"""Bytes of device memory to answer with; products are not told apart by it."""


def install(target: Product, tape: Tape) -> None:
    """Make torch.cuda answer for this product."""
    cuda: Any = torch.cuda
    properties = _properties(target)
    capability = divmod(target.arch, 10)
    streams = _streams()
    default = streams.Stream()
    current = [default]
    streams.stream.current = current

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: properties.name,
        "get_arch_list": lambda: [f"sm_{target.arch}"],
        "is_bf16_supported": lambda *args, **kwargs: True,
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: current[-1],
        "default_stream": lambda device=None: default,
        "set_stream": lambda stream: current.__setitem__(-1, stream),
        "stream": streams.stream,
        "Stream": streams.Stream,
        "ExternalStream": streams.Stream,
        "Event": streams.Event,
        "device": _Device,
        "device_of": _Device,
        "CUDAGraph": type("CUDAGraph", (_CudaGraph,), {"tape": tape}),
        "graph": _Capture,
        "graph_pool_handle": lambda: (0, 0),
        "is_current_stream_capturing": lambda: tape.capturing,
        "make_graphed_callables": lambda callables, *args, **kwargs: callables,
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "mem_get_info": lambda device=None: (_TOTAL_MEMORY, _TOTAL_MEMORY),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
    }
    for name, answer in answers.items():
        setattr(cuda, name, answer)
    for name in ("range_push", "range_pop", "mark", "range_start", "range_end"):
        setattr(cuda.nvtx, name, lambda *args, **kwargs: 0)
    version: Any = torch.version
    version.cuda = "12.8"
    # It would put itself beneath Presented, which could then no longer turn its device into the CPU.
    anything: Any = torch
    anything.set_default_device = lambda device: None


class Presented(TorchFunctionMode):  # type: ignore[misc]
    """While it is active, CPU tensors are presented as CUDA tensors to Python code.

    Attribute getters reach a function mode like any operation does, so no class is patched and torch's own code,
    which runs with the mode off, sees tensors as they are.
    """

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(*args, **kwargs)
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": _CPU}
        if func is torch.Tensor.to:
            args = tuple(_CPU if isinstance(a, str | int | torch.device) and _is_cuda(a) else a for a in args)
        elif any(isinstance(a, torch.device) for a in args):
            args = tuple(_CPU if isinstance(a, torch.device) and _is_cuda(a) else a for a in args)
        try:
            return func(*args, **kwargs)
        except Exception as error:
            self._tape.failed(error)
            raise


def _is_cuda(device: object) -> bool:
    if isinstance(device, torch.device):
        return str(device.type) == "cuda"
    return type(device) is int or (isinstance(device, str) and device.partition(":")[0] == "cuda")


def _cpu_copy(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return tensor.detach().clone()


_ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.device.__get__: lambda tensor, *_: CUDA,
    torch.Tensor.is_cuda.__get__: lambda tensor, *_: True,
    torch.Tensor.is_cpu.__get__: lambda tensor, *_: False,
    torch.Tensor.get_device: lambda tensor: 0,
    torch.Tensor.cuda: lambda tensor, *args, **kwargs: tensor,
    torch.Tensor.cpu: _cpu_copy,
    torch.Tensor.pin_memory: lambda tensor, *args, **kwargs: tensor,
    torch.Tensor.record_stream: lambda tensor, stream: None,
}


def _properties(target: Product) -> SimpleNamespace:
    major, minor = divmod(target.arch, 10)
    return SimpleNamespace(
        name=target.name,
        major=major,
        minor=minor,
        total_memory=_TOTAL_MEMORY,
        multi_processor_count=target.sms,
        L2_cache_size=target.l2_bytes,
        max_threads_per_multi_processor=target.threads_per_sm,
        max_threads_per_block=1024,
        regs_per_multiprocessor=target.registers_per_sm,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=target.shared_per_block,
        shared_memory_per_multiprocessor=target.shared_per_sm,
        warp_size=32,
        clock_rate=int(target.max_clock_mhz * 1000),
        is_integrated=0,
        is_multi_gpu_board=0,
        uuid="GPU-00000000-0000-0000-0000-000000000000",
    )


class _Nothing:
    """An object that accepts any construction and serves as a context."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: Any) -> None: ...


class _Device(_Nothing):
    """torch.cuda.device(...)"""


def _streams() -> SimpleNamespace:
    """Stream, Event and stream(), whose order is the order of the program: there is nothing to wait for."""
    handles = itertools.count(0)

    class Event(_Nothing):
        cuda_event = 0

        def record(self, stream: Any = None) -> None: ...

        def wait(self, stream: Any = None) -> None: ...

        def synchronize(self) -> None: ...

        def query(self) -> bool:
            return True

        def elapsed_time(self, end: Any) -> float:
            return 1.0

    class Stream(_Nothing):
        device = CUDA
        device_index = 0
        priority = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.cuda_stream = self.stream_id = next(handles)

        def wait_stream(self, stream: Any) -> None: ...

        def wait_event(self, event: Any) -> None: ...

        def synchronize(self) -> None: ...

        def query(self) -> bool:
            return True

        def record_event(self, event: Event | None = None) -> Event:
            return event or Event()

    class stream:
        current: list[Any]

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            self.current.append(self.stream or self.current[-1])

        def __exit__(self, *args: Any) -> None:
            self.current.pop()

    return SimpleNamespace(Stream=Stream, Event=Event, stream=stream)


class _CudaGraph(_Nothing):
    """torch.cuda.CUDAGraph, its work kept on the tape."""

    tape: Tape

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._graph = Graph()

    def capture_begin(self, *args: Any, **kwargs: Any) -> None:
        self.tape.begin_capture(self._graph)

    def capture_end(self) -> None:
        self.tape.end_capture()

    def replay(self) -> None:
        self.tape.replay(self._graph)

    def reset(self) -> None:
        self._graph.work.clear()

    def pool(self) -> tuple[int, int]:
        return (0, 0)

    def instantiate(self) -> None: ...

    def enable_debug_mode(self) -> None: ...

    def register_generator_state(self, generator: Any) -> None: ...


class _Capture(_Nothing):
    """torch.cuda.graph(...)"""

    def __init__(self, cuda_graph: _CudaGraph, *args: Any, **kwargs: Any) -> None:
        self._cuda_graph = cuda_graph

    def __enter__(self) -> None:
        self._cuda_graph.capture_begin()

    def __exit__(self, *args: Any) -> None:
        self._cuda_graph.capture_end()
