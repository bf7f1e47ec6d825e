"""Runs Nsight Compute over the recorded launches of a call."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kopt.errors import HarnessError, MachineError
from kopt.evaluate import hooks
from kopt.evaluate.server import inherited
from kopt.judge.replay import Material
from kopt.profile.limits import METRICS, Profile, reduced
from kopt.records import Shape, Task

_SECONDS = 180.0
_REFUSED = ("driver resource was unavailable", "not supported", "unsupported")
"""What ncu says where another tool, such as DCGM, holds the counters, or the device or its driver has none to show."""
_US = {"ns": 1e-3, "us": 1.0, "usecond": 1.0, "nsecond": 1e-3, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6}
_BYTES = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12}


def available() -> str:
    """Path of `ncu`, or ""."""
    return shutil.which("ncu") or next((str(p) for p in sorted(Path("/usr/local").glob("cuda*/bin/ncu"))), "")


def required() -> str:
    """Path of `ncu`; MachineError where it is missing."""
    if tool := available():
        return tool
    raise MachineError("no counters: ncu (Nsight Compute, part of CUDA) is not installed")


def profile(task: Task, shape: Shape, material: Material, gpu: str) -> list[Profile]:
    """Counters of the kernels that a call launches at a shape, on the GPU with this UUID; of each name the longest.

    MachineError when there is no `ncu`, or counters may not be read; HarnessError when the launches cannot be replayed
    under it.
    """
    tool = required()
    found = material.of(shape.name)
    if found is None or found[0].reason:
        why = found[0].reason if found else f"nothing was traced at {shape.name}"
        raise HarnessError(f"no counters: the launches cannot be replayed: {why}")
    recipe, images = found
    asked = _asked(tool, gpu)
    with tempfile.TemporaryDirectory(prefix="kopt-ncu-") as folder:
        job, log = Path(folder, "job.json"), Path(folder, "counters.csv")
        job.write_text(json.dumps({
            "task": task.model_dump(mode="json"), "shape": shape.model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json"), "images": images,
        }))  # fmt: skip
        command = [
            tool, "--metrics", ",".join(asked.values()), "--csv", "--page", "raw", "--print-units", "base",
            "--clock-control", "none", "--profile-from-start", "off", "--log-file", str(log),
            sys.executable, "-P", "-m", "kopt.profile.launches", str(job),
        ]  # fmt: skip
        done = _run(command, gpu, folder)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if done.returncode or not (rows := parse(text)):
            raise _failed(text, done)
    launched, cost = [step for step in recipe.steps if step.cubin], hooks.cost(task, shape)
    compulsory = cost.read + cost.written if len(launched) == 1 else None
    multiplying = {step.entry for step in launched if step.matrix}
    longest: dict[str, Profile] = {}
    for name, row in rows:
        made = reduced(name, shape.name, _named(row, asked), compulsory, matrix=name in multiplying)
        if name not in longest or made.us > longest[name].us:
            longest[name] = made
    return sorted(longest.values(), key=lambda p: -p.us)


def parse(text: str) -> list[tuple[str, dict[str, float]]]:
    """Kernel names and values by metric, of ncu's raw page as CSV: a line of names, a line of units, one a launch.

    Times are in microseconds, amounts in bytes.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    table = list(csv.reader(lines))
    if len(table) < 3 or "Kernel Name" not in table[0]:
        return []
    names, units = table[0], table[1]
    found = []
    for row in table[2:]:
        values = {}
        for name, unit, value in zip(names, units, row, strict=False):
            try:
                number = float(value.replace(",", ""))
            except ValueError:
                continue
            values[name] = number * _US.get(unit, _BYTES.get(unit, 1.0))
        found.append((row[names.index("Kernel Name")], values))
    return found


def choose(there: Iterable[str]) -> dict[str, str]:
    """Of every metric we want the first name that a GPU has, by our own. `there` are names without their suffixes."""
    known = set(there)
    chosen = {}
    for name, names in METRICS.items():
        for metric in names:
            if metric.startswith("launch__") or metric.partition(".")[0] in known:
                chosen[name] = metric
                break
    return chosen


@functools.cache
def _asked(tool: str, gpu: str) -> Mapping[str, str]:
    done = _run([tool, "--query-metrics"], gpu, None)
    there = re.findall(r"^(\w+__\w+)", done.stdout, re.MULTILINE)
    if not there:
        raise _failed(done.stdout, done)
    return choose(there)


def _named(row: Mapping[str, float], asked: Mapping[str, str]) -> dict[str, float]:
    return {name: row[metric] for name, metric in asked.items() if metric in row}


def _run(
    command: Sequence[str], gpu: str, folder: str | None, seconds: float = _SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run it to its end or for so long, in a session of its own, of which nothing is left afterwards."""
    environment = inherited("HOME") | {"CUDA_VISIBLE_DEVICES": gpu}
    if folder is not None:
        environment["TMPDIR"] = folder
    try:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise MachineError(f"no counters: {command[0]} cannot be run: {error.strerror}") from None
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise HarnessError(f"no counters: ncu did not come back within {seconds:g} s") from None
    finally:
        # ncu is not what works on the device: its child is, and would hold the memory.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def _failed(text: str, done: subprocess.CompletedProcess[str]) -> MachineError | HarnessError:
    said = f"{text}\n{done.stdout}\n{done.stderr}"
    if "ERR_NVGPUCTRPERM" in said:
        return MachineError(
            "no counters: this user may not read them; an administrator allows it with the driver option "
            "NVreg_RestrictProfilingToAdminUsers=0"
        )
    lines = [line.strip() for line in said.splitlines() if "==ERROR==" in line or "Error" in line]
    # The first may only say that there is one.
    why = " ".join(line.removeprefix("==ERROR==").strip() for line in lines[:3])
    message = f"no counters: {why[:300] or f'ncu ended with exit code {done.returncode}'}"
    return MachineError(message) if any(words in said for words in _REFUSED) else HarnessError(message)
