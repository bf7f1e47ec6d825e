"""What a run was started with: run.json, written once and whole, before anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kopt.budget import Budget
from kopt.errors import HarnessError, UsageError
from kopt.journal import LATEST
from kopt.records import Cost, Evidence, Shape, Toolchain
from kopt.records.base import Record

SCHEMA = 1
META = "run.json"


class Work(Record):
    """What the task asked for when the run began: rates and rooflines are still known after the task has changed."""

    peak: str
    """Kind of arithmetic that utilization is of; `Task.score.peak`."""
    shapes: tuple[Shape, ...]
    costs: Mapping[str, Cost]
    """By shape, as it is timed."""
    baseline: str = ""
    """What measurements are compared with, in the words of the task's `baseline`."""


class Meta(Record):
    """What a run was started with; written once."""

    schema_version: int = SCHEMA
    id: str
    created: float = Field(ge=0, le=LATEST)
    """Unix time."""
    kopt: str
    evaluator: int
    task: str
    task_sha: str
    target: str
    evidence: Evidence = Evidence.MODELLED
    """What stands behind the run's scores: a measured run goes on only where it can measure."""
    proposer: str
    seed: int
    budget: Budget
    metric: Literal["utilization", "roofline"] = "utilization"
    """What the scores of this run are fractions of; `Task.score.metric` at the time."""
    shapes: tuple[Shape, ...] = ()
    """Timing shapes when they are the user's own, else empty."""
    work: Work | None = None
    """None in runs of earlier versions."""
    start: str = ""
    """Name of the source the run started from (`--from`), below sources/."""
    toolchain: Toolchain
    machine: Mapping[str, Any] = {}
    walls: Mapping[str, str] = {}


def read_meta(folder: Path) -> Meta:
    path = folder / META
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a run: it has no {META}; kopt runs lists those there are") from None
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"cannot read {path}: {error}") from error
    if not isinstance(raw, dict):
        raise HarnessError(f"{path} holds a {type(raw).__name__}, not what a run was started with")
    try:
        return Meta.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise HarnessError(f"{path}: {key}: {first['msg']} (written by kopt {raw.get('kopt', 'unknown')}?)") from error


def create(folder: Path, meta: Meta) -> None:
    """Make the run's folder and its run.json, whole or not at all; UsageError when the folder is there."""
    if not _made(folder, meta):
        raise UsageError(f"{folder} exists; give the run another name, or continue it with kopt resume")


def create_unnamed(home: Path, meta: Meta) -> Meta:
    """As `create`, for a run that its user has not named: where another one below `home` has its id, it is called
    id-2, id-3 and so on. Returns `meta` with the id that it got."""
    own, number = meta, 1
    while not _made(home / own.id, own):
        number += 1
        own = meta.model_copy(update={"id": f"{meta.id}-{number}"})
    return own


def _made(folder: Path, meta: Meta) -> bool:
    """False when somebody else has it. Of two who ask at once, one makes it."""
    try:
        (folder / "sources").mkdir(parents=True)
        write_whole(folder / META, meta.model_dump_json(indent=2) + "\n")
    except FileExistsError:
        return False
    except OSError as error:
        with suppress(OSError):  # what was in it before stays
            (folder / f"{META}.part").unlink(missing_ok=True)
            (folder / "sources").rmdir()
            folder.rmdir()
        raise HarnessError(f"cannot create {folder}: {error.strerror}") from error
    return True


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a crash leaves either nothing or all of it."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
