"""Is this machine fit for kopt, and if not, what mends it? Each check looks at one thing and never raises."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import kopt
from kopt.errors import KoptError, MachineError
from kopt.machine import resources
from kopt.machine.detect import VISIBLE, detect
from kopt.machine.fingerprint import cpu, versions

DISTRIBUTION = "kopt-gpu"

PAIRS = {"3.6": "2.11", "3.7": "2.13", "3.8": "2.14", "3.9": "2.15"}
"""Triton release by the torch release whose metadata demands it: the toolchains kopt is tested with."""

LINUX = platform.system() == "Linux"

MIN_MEMORY = 2 << 30
MIN_DISK = 1 << 30


class Check(NamedTuple):
    """One line of the report. "fail" is for what kopt cannot do its main job without."""

    name: str
    state: Literal["ok", "warn", "fail"]
    finding: str
    mend: str = ""


def examine(workspace: Path) -> Iterator[Check]:
    """All checks, in the order in which trouble should be mended; each is given as soon as it is known."""
    looks: tuple[Callable[[], Check | Iterator[Check]], ...] = (
        _system, _python, _package, _toolchain, _packages, _resources, _gpu, lambda: _workspace(workspace), _scratch,
        _walls, _compiler, _judge,
    )  # fmt: skip
    for look in looks:
        try:
            found = look()
            yield from [found] if isinstance(found, Check) else found
        except Exception as error:
            name = getattr(look, "__name__", "workspace").strip("_<>")
            yield Check(name, "warn", f"the check itself failed: {type(error).__name__}: {error}")


def _system() -> Check:
    text = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if LINUX:
        return Check("system", "ok", text)
    return Check("system", "warn", f"{text}: Triton needs Linux", "reading runs works here; evaluate on Linux")


def _python() -> Check:
    text = f"Python {platform.python_version()}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", text)
    return Check("python", "warn", f"{text} is not among the tested 3.11 to 3.13", "make an environment with 3.12")


def _package() -> Check:
    text = f"kopt {kopt.__version__} from {Path(kopt.__file__).parent}"
    installed = set(metadata.packages_distributions().get("kopt", ()))
    if others := sorted(installed - {DISTRIBUTION}):
        mend = f"pip uninstall {' '.join(others)} && pip install --force-reinstall {DISTRIBUTION}"
        return Check("package", "fail", f"{text}; {', '.join(others)} installs a package of the same name", mend)
    if DISTRIBUTION not in installed:
        return Check("package", "ok", f"{text} (from source, not installed)")
    return Check("package", "ok", text)


def _toolchain() -> Check:
    found = versions(("torch", "triton", "numpy"))
    missing = [name for name in ("torch", "triton") if name not in found]
    if missing:
        state: Literal["warn", "fail"] = "fail" if LINUX else "warn"
        return Check(
            "toolchain", state, f"{' and '.join(missing)} not installed: nothing can be evaluated",
            f"pip install {DISTRIBUTION} (on Linux)",
        )  # fmt: skip
    text = f"torch {found['torch']}, triton {found['triton']}, numpy {found.get('numpy', 'none')}"
    torch, triton = _release(found["torch"]), _release(found["triton"])
    supported = ", ".join(f"{t} + {v}" for v, t in PAIRS.items())
    if PAIRS.get(triton) != torch:
        return Check("toolchain", "warn", f"{text}: not a tested pair", f"tested torch + triton: {supported}")
    return Check("toolchain", "ok", text)


def _release(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _packages() -> Check:
    wanted = ("pydantic", "typer", "rich", "numpy", "optuna", "matplotlib")
    found = versions(wanted)
    if missing := [name for name in wanted if name not in found]:
        mend = f"pip install {' '.join(missing)}"
        return Check("packages", "fail", f"missing: {', '.join(missing)}", mend)
    return Check("packages", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def _resources() -> Check:
    cores, memory = resources.cores(), resources.memory()
    shown = "unknown memory" if memory is None else f"{memory / (1 << 30):.1f} GiB"
    text = f"{cores} core{'s' if cores > 1 else ''}, {shown}; {cpu()}"
    if memory is not None and memory < MIN_MEMORY:
        return Check("resources", "warn", f"{text}: compiling needs about 2 GiB", "free or allow more memory")
    return Check("resources", "ok", text)


def _gpu() -> Iterator[Check]:
    found = detect()
    if found.problem:
        yield Check("gpu", "ok", f"{found.problem}; results are modelled, not measured")
    try:
        visible = found.visible()
    except MachineError as error:
        yield Check("gpu", "fail", str(error), "no run can choose a GPU")
        return
    for gpu in found.gpus:
        text = f"{gpu.index}: {gpu.name}, {gpu.memory_bytes / (1 << 30):.0f} GiB, driver {found.driver}"
        if gpu not in visible:
            yield Check("gpu", "ok", f"{text}; hidden by {VISIBLE}")
        elif gpu.product is None:
            yield Check("gpu", "warn", f"{text}: unknown to kopt, so its peak is too", "utilization cannot be given")
        elif gpu.busy:
            yield Check("gpu", "warn", f"{text}: {gpu.busy} other process(es) compute on it", "stop them to measure")
        else:
            yield Check("gpu", "ok", f"{text}; target {gpu.product.key}")
    if found.gpus:
        from kopt import profile

        if tool := profile.available():
            yield Check("profiler", "ok", f"{tool}: kopt profile counts on the GPU")
        else:
            text = "ncu is not there: kopt profile shows the model and the compiler's facts alone"
            yield Check("profiler", "warn", text, "install Nsight Compute, or put CUDA's bin on the PATH")


def _workspace(workspace: Path) -> Check:
    from kopt import content

    tasks = content.list_tasks(workspace)
    home = workspace / "submissions"
    nearest = next(path for path in (home, *home.parents) if path.exists())
    text = f"{workspace}: {len(tasks)} task{'' if len(tasks) == 1 else 's'} in sight"
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        return Check("workspace", "fail", f"{text}, but {nearest} cannot be written", "use another with --workspace")
    if not tasks:
        return Check("workspace", "fail", text, "kopt init, or pip install --force-reinstall " + DISTRIBUTION)
    return Check("workspace", "ok", text)


def _scratch() -> Check:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {free / (1 << 30):.1f} GiB free for compilations"
    if free < MIN_DISK:
        return Check("scratch", "warn", text, "free some space, or point TMPDIR elsewhere")
    return Check("scratch", "ok", text)


def _walls() -> Iterator[Check]:
    if not LINUX:
        return
    from kopt.evaluate.worker import walls

    for name, state in walls.probe().items():
        if state == "up":
            yield Check(f"wall {name}", "ok", "holds around untrusted kernels")
        else:
            yield Check(
                f"wall {name}", "warn", state, "check only kernels that you trust here, or use a kernel that has it"
            )


def _compiler() -> Check:
    if not LINUX or len(versions(("torch", "triton"))) < 2:
        return Check("compiler", "warn", "not tried: torch and triton are needed")
    from kopt.evaluate.workers import Workers

    try:
        with Workers() as workers, tempfile.TemporaryDirectory(prefix="kopt-doctor-") as folder:
            reply = workers.run(
                "compile", "kopt.evaluate.worker.selftest:run", {"arch": 90}, folder=Path(folder), deadline=120.0,
                trusted=True,
            )  # fmt: skip
    except KoptError as error:
        return Check("compiler", "fail", str(error), "reinstall torch and triton")
    if reply.outcome != "ok":
        return Check("compiler", "fail", f"a small kernel does not compile: {reply.error}", "reinstall triton")
    size, seconds = reply.value["bytes"], reply.seconds
    return Check("compiler", "ok", f"a small kernel compiled for sm_90 in {seconds:.1f} s ({size} bytes)")


def _judge() -> Iterator[Check]:
    """A judge and a runner of its own, started and asked: on the GPU that a run would use, else on the CPU backend."""
    if not LINUX or len(versions(("torch", "triton"))) < 2:
        return
    from kopt.judge import Judge
    from kopt.judge.bench import NOTHING

    try:
        gpus = [gpu for gpu in detect().visible() if not gpu.busy]
    except MachineError:
        return  # said already
    where = f"GPU {gpus[0].index}" if gpus else "CPU backend"
    try:
        with Judge(NOTHING, "cuda" if gpus else "cpu", device=gpus[0].uuid if gpus else "doctor") as judge:
            found = judge.probe()
    except KoptError as error:
        # Without a GPU nothing is measured anyway.
        yield Check("judge", "fail" if gpus else "warn", f"{where}: {error}", "kopt audit shows what fails")
        return
    yield Check("judge", "ok", f"{where}: a runner shares memory ({found['sharing']})")
    for name, state in found["telemetry"].items():
        if state == "up":
            yield Check(name, "ok", "the GPU's own view of its tensor pipes stands beside what a kernel claims")
        else:
            mend = "kernels are judged without this witness; a virtual machine may withhold it"
            yield Check(name, "warn", state, mend)
    for name, state in found["walls"].items():
        if state == "up":
            yield Check(f"runner {name}", "ok", "stands around a kernel that is timed")
        else:
            mend = "measure only kernels that you trust here, or run kopt as root in a container of its own"
            yield Check(f"runner {name}", "warn", state, mend)
