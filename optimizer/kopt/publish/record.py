"""What stands beside a published kernel: where it comes from and what its numbers rest on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kopt import content
from kopt.errors import UsageError
from kopt.records import Evidence, Measurement, Parameters, Prediction, Toolchain
from kopt.records.base import Record

FOLDER = "published"


class Published(Record):
    """kernels/<task>/published/<product>.json."""

    task: str
    task_sha: str
    entry: str
    target: str
    """Key of the product."""
    sha256: str
    """Of the file beside this one."""
    run: str
    submission: int
    sha: str
    """The submission's digest within its run."""
    parameters: Parameters
    configurations: Mapping[str, Parameters] = {}
    """Parameters that differ by timing shape; empty when one set serves all."""
    evidence: Evidence
    metric: str
    score: float
    measurements: tuple[Measurement, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    quads: int = 0
    """ABBA quads behind every shape; 0 for modelled times, and where there is no baseline."""
    batches: int = 0
    """The same for a task without a baseline."""
    processes: int = 0
    submissions: int
    """Submissions of the run it was the best of."""
    toolchain: Toolchain
    machine: Mapping[str, Any] = {}
    evaluator: int
    kopt: str
    license: str
    published: str
    """UTC date."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def find(task: str, root: Path) -> dict[str, tuple[Path, Published]]:
    """Published kernels of a task by product: the workspace's, then those that ship; UsageError for a broken record."""
    found: dict[str, tuple[Path, Published]] = {}
    for path in _records(task, root):
        try:
            record = Published.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError) as error:
            raise UsageError(f"{path}: not the record of a published kernel: {str(error).splitlines()[0]}") from None
        source = path.with_suffix(".py")
        if not source.is_file():
            raise UsageError(f"{source} is missing; kopt publish {record.run}/{record.submission} writes it again")
        found.setdefault(record.target, (source, record))
    return found


def _records(task: str, root: Path) -> Iterator[Path]:
    for base in content.roots(root):
        yield from sorted((base / "kernels" / task / FOLDER).glob("*.json"))
