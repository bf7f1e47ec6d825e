"""What was tried: a source with pinned parameters, identified by content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

from pydantic import Field

from kopt.records.base import Record

Parameters = Mapping[str, int | float | str | bool]
"""Values for keyword-only parameters of the entry."""


LONGEST = 200
"""Characters of a parameter's name or text."""


def pinned(parameters: Parameters) -> Parameters:
    """The same parameters; ValueError for names and values that no journal could give back as they were."""
    for name, value in parameters.items():
        shown = ascii(name[:40])
        for text in (name, value) if isinstance(value, str) else (name,):
            if len(text) > LONGEST:
                raise ValueError(f"{shown}: at most {LONGEST} characters")
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise ValueError(f"{shown}: half of a surrogate pair is no text")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{shown}: {value} is not a finite number")
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError(f"{shown}: an integer of {value.bit_length()} bits, at most 63 can be passed to a kernel")
    return parameters


def digest(source: str, parameters: Parameters | None = None) -> str:
    """Identity of a submission: SHA-256 of its source and its pinned parameters, in hex."""
    written = json.dumps(dict(parameters or {}), sort_keys=True)
    return hashlib.sha256(f"{written}\n{source}".encode()).hexdigest()


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
