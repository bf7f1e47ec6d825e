"""Compiles what a candidate will launch, before there is a runner for it: nothing on a GPU then waits for a compiler.

A job of a fork server, untrusted from the import on, behind the walls of a runner but without a device. Triton itself
compiles here, with the options, the target and the file layout of a runner, so that what it leaves in its cache has the
keys that a runner asks for (seen on an H200 with Triton 3.6.0). The cache is the candidate's own work: every runner of
the same source at the same parameters starts with a copy of it, and nobody else sees it.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_NICE = 10
"""Judge and runner may be timing another kernel meanwhile, each with a core that it never leaves."""


def make(payload: dict[str, Any], folder: Path, ask: object) -> dict[str, Any]:
    """Call payload["entry"] of payload["source"] once at each of payload["shapes"], on a GPU that is not there.

    A shape is a list of tensors as `make_tensors` takes them: integers that steer the host lie in files of the folder.

    Returns {"shapes": how many went through}. One that raises is left out: the runner will say why.
    """
    from kopt.evaluate.worker import shims
    from kopt.evaluate.worker.tape import Tape
    from kopt.evaluate.worker.trace import make_tensors
    from kopt.judge import confine
    from kopt.judge.runner import load
    from kopt.machine.products import product

    os.nice(_NICE)
    confine.up({"trusted": False, "backend": "compiler"}, folder)
    target, tape = product(payload["target"]), Tape()
    shims.install(target, tape)
    _install(target)
    done = 0
    with shims.Presented(tape):
        entry = getattr(load(payload["source"], folder), payload["entry"])
        for specs in payload["shapes"]:
            try:
                entry(*make_tensors(specs, folder), **payload["parameters"])
                done += 1
            except Exception as error:
                traceback.print_exception(error)
    return {"shapes": done}


def common(payload: dict[str, Any], folder: Path, ask: object) -> dict[str, Any]:
    """What every process that launches with Triton compiles first, whatever it launches. Trusted."""
    importlib.import_module("triton.backends.nvidia.driver").CudaUtils()
    return {}


def _install(target: Any) -> None:
    """A driver that has the target's properties, compiles in earnest, and launches nothing."""
    import triton

    from kopt.evaluate.worker.stub_driver import StubDriver

    driver: Any = StubDriver(target)
    driver.utils.load_binary = lambda *arguments: (0, 0, 0, 0, 1024)
    driver.launcher_cls = _launcher
    triton.runtime.driver.set_active(driver)


def _launcher(source: Any, metadata: Any) -> Callable[..., None]:
    # Until Triton 3.6 every signature has a launcher of its own in C, which takes longer to compile than the kernel.
    with suppress(Exception):
        importlib.import_module("triton.backends.nvidia.driver").CudaLauncher(source, metadata)
    return lambda *arguments, **named: None
