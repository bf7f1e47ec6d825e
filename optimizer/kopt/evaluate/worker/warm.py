"""What a fork server does once so that its children need neither the time nor a subprocess that the walls forbid."""

from __future__ import annotations

import gc
import importlib
import platform
import re
from contextlib import suppress

_MODULES = (
    "numpy",
    "torch._tensor_str",
    "torch.testing",
    "torch.utils.flop_counter",
    "triton.language",
    "triton.language.extra.libdevice",
    "triton.runtime.interpreter",
    "triton.runtime.autotuner",
    "triton.backends.nvidia.compiler",
    "triton.backends.nvidia.driver",
    "triton.tools.tensor_descriptor",
    "triton.testing",
    "triton.experimental.gluon.language",
    "kopt.records",
)
_ARCHES = (80, 90, 100, 103, 120)


def up() -> dict[str, str]:
    """Import and cache; returns the versions of the toolchain."""
    import torch
    import triton

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    for module in _MODULES:
        with suppress(ImportError):  # not every Triton has every one; a job that needs it says so
            importlib.import_module(module)
    str(torch.arange(3.0))
    # Hashes the whole installation, 0.4 s; part of the key of every compilation.
    importlib.import_module("triton.runtime.cache").triton_key()
    for arch in _ARCHES:
        _ptxas(arch)
    gc.collect()
    gc.freeze()  # a child's collector then leaves the shared pages alone
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "ptxas": _ptxas(90),
        "numpy": importlib.import_module("numpy").__version__,
    }


def _ptxas(arch: int) -> str:
    """Version of the assembler that this Triton uses for an architecture; "" when it does not run."""
    compiler = importlib.import_module("triton.backends.nvidia.compiler")
    try:
        text = str(compiler.get_ptxas_version(arch))
    except (OSError, RuntimeError, ValueError):
        return ""
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found.group(1) if found else ""
