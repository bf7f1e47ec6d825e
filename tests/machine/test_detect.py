"""GPUs through NVML, with a stand-in for nvidia-ml-py; and a fingerprint that names no person, host or card."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kopt.errors import MachineError
from kopt.loop import place_of
from kopt.machine.choose import choose
from kopt.machine.detect import detect
from kopt.machine.fingerprint import fingerprint, versions
from kopt.meta import read_meta


class NvmlError(Exception):
    pass


def refuse(*_: Any) -> Any:
    raise NvmlError("Not Supported")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a stand-in for the `pynvml` module with one GPU; keywords replace its functions."""

    def install(name: str | bytes = "NVIDIA H200", **over: Any) -> None:
        functions: dict[str, Any] = {
            "NVMLError": NvmlError, "NVML_CLOCK_SM": 1,
            "nvmlInit": lambda: None, "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 1, "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlSystemGetDriverVersion": lambda: "575.57.08",
            "nvmlDeviceGetName": lambda h: name, "nvmlDeviceGetUUID": lambda h: "GPU-secret",
            "nvmlDeviceGetCudaComputeCapability": lambda h: (9, 0),
            "nvmlDeviceGetEnforcedPowerLimit": lambda h: 700_000,
            "nvmlDeviceGetMaxClockInfo": lambda h, kind: 1980,
            "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(total=141 << 30),
            "nvmlDeviceGetComputeRunningProcesses": lambda h: [],
        }  # fmt: skip
        for variable in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**{**functions, **over}))

    return install


def test_a_known_gpu_is_described_and_matched(nvml: Callable[..., None]) -> None:
    nvml(name=b"NVIDIA H200")
    found = detect()
    assert (found.problem, found.driver) == ("", "575.57.08")
    gpu = found.gpus[0]
    assert gpu.product is not None
    assert (gpu.product.key, gpu.name, gpu.arch, gpu.power_limit_w, gpu.busy) == ("h200", "NVIDIA H200", 90, 700.0, 0)


@pytest.mark.parametrize(("busy", "wanted", "taken"), [
    ((), None, "GPU-0"),
    ((0,), None, "GPU-1"),
    ((0,), "0", "GPU-0"),  # who names one waits for it
    ((0, 1, 2), None, "GPU-0"),
])  # fmt: skip
def test_of_several_gpus_the_first_idle_one_is_taken(
    nvml: Callable[..., None], busy: tuple[int, ...], wanted: str | None, taken: str
) -> None:
    nvml(
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetUUID=lambda h: f"GPU-{h}",
        nvmlDeviceGetComputeRunningProcesses=lambda h: ["a process"] if h in busy else [],
    )
    assert choose(None, wanted).gpu == taken
    assert choose("h200", wanted).gpu == taken


@pytest.fixture
def four(nvml: Callable[..., None]) -> None:
    nvml(nvmlDeviceGetCount=lambda: 4, nvmlDeviceGetUUID=lambda h: f"GPU-{h}{h}{h}")


@pytest.mark.parametrize(("said", "left"), [
    (None, [0, 1, 2, 3]),
    ("2", [2]),
    ("3, 1", [3, 1]),
    ("GPU-33,GPU-1", [3, 1]),
    ("GPU-11,3", [1]),  # nothing after a word of another kind
    ("1,GPU-33", [1]),
    ("2,9,1", [2]),  # nothing after what is not there
    ("", []),
    ("-1", []),
    ("-2,1", []),
])  # fmt: skip
def test_what_cuda_would_not_see_is_not_measured_on(
    four: None, monkeypatch: pytest.MonkeyPatch, said: str | None, left: list[int]
) -> None:
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert [gpu.index for gpu in detect().visible()] == left
    assert choose().gpu == (f"GPU-{left[0] * 111:03d}" if left else None)


@pytest.mark.parametrize("said", ["7", "GPU-9", "GPU-", "MIG-1", "all"])
def test_a_word_that_names_no_gpu_is_no_run_on_another(four: None, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    with pytest.raises(MachineError, match=f"CUDA_VISIBLE_DEVICES='{said}' names no GPU of this machine, which has 0"):
        choose()
    assert choose(modelled=True).gpu is None


def test_a_gpu_that_is_named_twice_is_named(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,1")
    with pytest.raises(MachineError, match="names GPU 1 twice"):
        choose()


def test_a_hidden_gpu_cannot_be_named(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert choose(None, "2").gpu == "GPU-222"
    with pytest.raises(MachineError, match="GPU 0 is hidden by CUDA_VISIBLE_DEVICES='1,2'"):
        choose(None, "0")


def test_numbers_of_gpus_of_several_kinds_say_nothing(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetUUID=lambda h: f"GPU-{h}",
        nvmlDeviceGetName=lambda h: ("NVIDIA L4", "NVIDIA H200")[h],
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(MachineError, match="of several kinds"):
        choose()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert choose().gpu == "GPU-1"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert choose().gpu == "GPU-1"


def test_an_unknown_gpu_has_no_product(nvml: Callable[..., None]) -> None:
    nvml(name="NVIDIA Z900")
    assert detect().gpus[0].product is None


def test_what_a_card_does_not_report_is_left_out(nvml: Callable[..., None]) -> None:
    nvml(
        nvmlDeviceGetEnforcedPowerLimit=refuse,
        nvmlDeviceGetMaxClockInfo=refuse,
        nvmlDeviceGetMemoryInfo=refuse,
        nvmlDeviceGetComputeRunningProcesses=refuse,
    )
    gpu = detect().gpus[0]
    assert (gpu.power_limit_w, gpu.max_clock_mhz, gpu.memory_bytes, gpu.busy) == (None, None, 0, 0)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"nvmlInit": refuse}, "no NVIDIA driver answers"),
        ({"nvmlDeviceGetCount": lambda: 0}, "lists no GPU"),
        ({"nvmlDeviceGetHandleByIndex": refuse}, "NVML failed"),
    ],
)
def test_a_driver_in_trouble_is_a_reason_and_no_exception(
    nvml: Callable[..., None], over: dict[str, Any], words: str
) -> None:
    nvml(**over)
    found = detect()
    assert found.gpus == ()
    assert words in found.problem


def test_without_the_bindings_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'kopt-gpu[gpu]'" in detect().problem


def test_a_fingerprint_is_json_and_names_no_person_host_or_card(nvml: Callable[..., None]) -> None:
    nvml()
    text = json.dumps(fingerprint())
    assert '"product": "h200"' in text
    assert "GPU-secret" not in text
    assert socket.gethostname() not in text


def test_versions_come_without_importing() -> None:
    before = set(sys.modules)
    assert "pydantic" in versions(("pydantic", "no-such-distribution"))
    assert "no-such-distribution" not in versions(("no-such-distribution",))
    assert "torch" not in set(sys.modules) - before


def test_a_measured_run_goes_on_only_on_a_gpu_of_its_kind(four: None, nvml: Callable[..., None]) -> None:
    meta = read_meta(Path(__file__).resolve().parents[2] / "submissions" / "fp8_gemm-h200")
    assert place_of(meta) == "GPU-000"
    assert place_of(meta, "2") == "GPU-222"
    nvml(name="NVIDIA H100 80GB HBM3")
    with pytest.raises(MachineError, match="run fp8_gemm-h200 measures on h200, and none is in sight"):
        place_of(meta)
    with pytest.raises(MachineError, match="GPU 0 is NVIDIA H100 80GB HBM3, not NVIDIA H200: name one that is"):
        place_of(meta, "0")
