"""The nouns of kopt: frozen, validated records without I/O. A state that makes no sense cannot be built."""

from kopt.records.base import Record
from kopt.records.facts import KernelFacts, LaunchFacts
from kopt.records.finale import Contest, Finale
from kopt.records.submission import Parameters, Submission, digest, pinned
from kopt.records.task import Cost, Hidden, Provenance, Score, Shape, Task, TensorSpec, Tolerance
from kopt.records.verdict import (
    NO_DEVICE_TIME,
    Evidence,
    Finding,
    Measurement,
    Outcome,
    Prediction,
    Quantity,
    StageResult,
    Status,
    Toolchain,
    Trial,
    Verdict,
)

__all__ = [
    "NO_DEVICE_TIME",
    "Contest",
    "Cost",
    "Evidence",
    "Finale",
    "Finding",
    "Hidden",
    "KernelFacts",
    "LaunchFacts",
    "Measurement",
    "Outcome",
    "Parameters",
    "Prediction",
    "Provenance",
    "Quantity",
    "Record",
    "Score",
    "Shape",
    "StageResult",
    "Status",
    "Submission",
    "Task",
    "TensorSpec",
    "Tolerance",
    "Toolchain",
    "Trial",
    "Verdict",
    "digest",
    "pinned",
]
