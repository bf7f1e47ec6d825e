"""GPUs that are not measured on, by what NVML and the driver say of them. Both are stood in for: neither is kopt's."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from kopt.errors import MachineError
from kopt.judge.backends import cuda, nvml


class NVMLError(Exception):
    pass


class Nvml(ModuleType):
    """A GPU at rest, but for what a test says of it."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_COMPUTEMODE_DEFAULT = 1, 0

    def __init__(self, *, mode: int = 0, others: tuple[int, ...] = (), broken: str = "") -> None:
        super().__init__("pynvml")
        self._mode, self._others, self._broken = mode, others, broken

    def nvmlInit(self) -> None:
        if self._broken:
            raise NVMLError(self._broken)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetComputeMode(self, handle: str) -> int:
        return self._mode

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self._others]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 1980


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "exclusive": ({"mode": 3}, "", r"exclusive compute mode.*nvidia-smi -c 0"),
    "busy": ({"others": (41, 42)}, "", r"busy: process 41, 42 computes on it; wait, or choose another"),
    "MPS": ({}, "77", r"MPS runs on this machine \(process 77\).*echo quit"),
    "broken": (
        {"broken": "Driver/library version mismatch"},
        "",
        r"NVML does not answer for GPU GPU-1: Driver/library",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_that_cannot_be_measured_on_is_refused_with_the_mend(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, mps, message = CASES[case]
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(**gpu))
    monkeypatch.setattr(cuda, "_mps", lambda: mps)
    with pytest.raises(MachineError, match=message):
        cuda.CudaJudge("GPU-1")._open_nvml()


def test_a_gpu_at_rest_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setattr(cuda, "_mps", lambda: "")
    monkeypatch.setattr(nvml, "Nvml", lambda uuid: uuid)
    monkeypatch.setattr(nvml, "start", lambda uuid: uuid)
    judge = cuda.CudaJudge("GPU-1")
    judge._open_nvml()
    assert judge.max_clock_mhz == 1980.0


def driver(answer: str) -> SimpleNamespace:
    """A driver whose allocations all have this answer."""
    return SimpleNamespace(
        CUmemAllocationProp=lambda: SimpleNamespace(location=SimpleNamespace()),
        CUmemAllocationType=SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1),
        CUmemAllocationHandleType=SimpleNamespace(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR=1),
        CUmemLocationType=SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1),
        CUmemAllocationGranularity_flags=SimpleNamespace(CU_MEM_ALLOC_GRANULARITY_MINIMUM=0),
        cuMemGetAllocationGranularity=lambda *_: (Result(0, "CUDA_SUCCESS"), 2 << 20),
        cuMemCreate=lambda *_: (Result(1, answer), None),
    )


class Result(int):
    name: str

    def __new__(cls, value: int, name: str) -> Result:
        made = super().__new__(cls, value)
        made.name = name
        return made


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ("CUDA_ERROR_NOT_SUPPORTED", MachineError, "cannot share this GPU's memory here .*CUDA_ERROR_NOT_SUPPORTED"),
        ("CUDA_ERROR_OUT_OF_MEMORY", torch.OutOfMemoryError, "no memory left"),
    ],
)
def test_memory_that_cannot_be_shared_is_told_from_memory_that_is_not_there(
    answer: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = ModuleType("cuda.bindings")
    bindings.driver = driver(answer)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    judge = cuda.CudaJudge("GPU-1")
    judge._torch = torch
    with pytest.raises(error, match=message):
        judge.share(1 << 20)
