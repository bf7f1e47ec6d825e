"""NVML: what a GPU says of itself, and its activity counters (GPM) where it has them and the machine allows them.

    python -m kopt.judge.backends.nvml UUID FD

is the process that reads while batches run (`kopt.judge.telemetry`).
"""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from kopt.judge.telemetry import Reading, Watcher, serve

REASONS = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
    "SyncBoost": "sync boost",
    "ApplicationsClocksSetting": "application clocks",
}
_COUNTERS = {
    "tensor": "ANY_TENSOR_UTIL",
    "sm": "SM_UTIL",
    "occupancy": "SM_OCCUPANCY",
    "dram": "DRAM_BW_UTIL",
}
_MARKS = 64


class Nvml:
    """One GPU, by UUID. NVMLError when there is none."""

    def __init__(self, uuid: str) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._bits = [(_bit(pynvml, key), text) for key, text in REASONS.items()]
        self._marks: list[Any] = []
        self._taken = 0
        self.no_counters = self._why_no_counters()

    def read(self) -> Reading:
        nvml = self._nvml
        clock = self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        heat = self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return Reading(
            time.perf_counter_ns(),
            None if clock is None else float(clock),
            self._power(),
            None if heat is None else float(heat),
            tuple(text for bit, text in self._bits if bits & bit),
        )

    def mark(self) -> Any:
        nvml = self._nvml
        if len(self._marks) < _MARKS:
            self._marks.append(nvml.nvmlGpmSampleAlloc())
        mark = self._marks[self._taken % len(self._marks)]
        self._taken += 1
        nvml.nvmlGpmSampleGet(self._handle, mark)
        return mark

    def between(self, one: Any, other: Any) -> Mapping[str, float]:
        nvml = self._nvml
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics, asked.sample1, asked.sample2 = len(_COUNTERS), one, other
        for number, name in enumerate(_COUNTERS.values()):
            asked.metrics[number].metricId = getattr(nvml, f"NVML_GPM_METRIC_{name}")
        nvml.nvmlGpmMetricsGet(asked)
        found = {}
        for number, name in enumerate(_COUNTERS):
            metric = asked.metrics[number]
            if metric.nvmlReturn == 0 and math.isfinite(metric.value):
                found[name] = metric.value / 100
        return found

    def _why_no_counters(self) -> str:
        nvml = self._nvml
        try:
            if not nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                return "this GPU has none"
            self.between(self.mark(), self.mark())
        except (nvml.NVMLError, AttributeError) as error:
            return f"NVML refuses: {error}"
        return ""

    def _power(self) -> float | None:
        """Watts at this moment, where it is told; else the driver's own average over a second."""
        nvml = self._nvml
        field = getattr(nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        values = None if field is None else self._ask("nvmlDeviceGetFieldValues", [field])
        if values is not None and values[0].nvmlReturn == 0:
            return float(values[0].value.uiVal) / 1e3
        usage = self._ask("nvmlDeviceGetPowerUsage")
        return None if usage is None else usage / 1e3

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


def start(uuid: str) -> Watcher:
    """A process that watches this GPU for the judge."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, uuid, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    return Watcher(mine)


def _bit(nvml: Any, key: str) -> int:
    """NVML renamed throttle reasons to event reasons; the bits are the same."""
    return int(getattr(nvml, f"nvmlClocksThrottleReason{key}", 0) or getattr(nvml, f"nvmlClocksEventReason{key}", 0))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])), Nvml(sys.argv[1]))
