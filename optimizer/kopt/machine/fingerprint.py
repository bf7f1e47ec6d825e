"""What a result depends on, as a run records it. No serial numbers, UUIDs, host or user names: runs are published."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import kopt
from kopt.machine import resources
from kopt.machine.detect import detect

PACKAGES = ("torch", "triton", "numpy", "optuna", "pydantic", "cuda-bindings", "nvidia-ml-py")


def fingerprint() -> dict[str, Any]:
    """JSON-able. Packages are asked for their versions, not imported."""
    found = detect()
    return {
        "gpus": [
            {
                "name": gpu.name,
                "product": gpu.product.key if gpu.product else None,
                "memory_bytes": gpu.memory_bytes,
                "power_limit_w": gpu.power_limit_w,
            }
            for gpu in found.gpus
        ],
        "driver": found.driver or None,
        "os": platform.system(),
        "kernel": platform.release(),
        "cpu": cpu(),
        "cores": resources.cores(),
        "memory_bytes": resources.memory(),
        "python": platform.python_version(),
        "kopt": kopt.__version__,
        "packages": versions(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by distribution, absent ones left out."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cpu() -> str:
    """The processor's name, such as "AMD EPYC 9554"; the architecture where the system says no more."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
