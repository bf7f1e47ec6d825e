"""What was tried: a source with pinned parameters, identified by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import Field

from kopt.records.base import Record

Parameters = Mapping[str, int | float | str | bool]
"""Values for keyword-only parameters of the entry."""


def digest(source: str, parameters: Parameters | None = None) -> str:
    """Identity of a submission: SHA-256 of its source and its pinned parameters, in hex."""
    pinned = json.dumps(dict(parameters or {}), sort_keys=True)
    return hashlib.sha256(f"{pinned}\n{source}".encode()).hexdigest()


class Submission(Record):
    """One row of a run. The source itself lies in the run's sources/ folder, never in the journal."""

    n: int = Field(ge=1)
    """Number within the run, from 1."""
    sha: str
    """`digest` of source and parameters."""
    parameters: Parameters = {}
    parent: int | None = None
    """Number of the submission this one was derived from."""
    origin: str
    """Who proposed it: "search", "model:<name>", "user", ..."""
    note: str = ""
    """What changed and why, in the proposer's words."""

    @property
    def file(self) -> str:
        """Name of the source below sources/."""
        return f"{self.n:04d}-{self.sha[:8]}.py"
