"""What evaluation says: findings, stages, predictions, measurements, trials, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from kopt.records.base import Record
from kopt.records.submission import Parameters


class Status(StrEnum):
    """The closed set of what can become of a submission or a trial."""

    PASSED = "passed"
    REJECTED = "rejected"
    """It breaks the contract or a rule of the task."""
    COMPILE_ERROR = "compile_error"
    WRONG = "wrong"
    CRASHED = "crashed"
    TIMEOUT = "timeout"


class Outcome(StrEnum):
    """What became of one stage."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not asked for."""
    UNAVAILABLE = "unavailable"
    """Could not be checked here; not the same as passed."""


class Evidence(StrEnum):
    """What stands behind a number."""

    MODELLED = "modelled"
    MEASURED = "measured"


class Finding(Record):
    """One reason, named so that it can be acted on."""

    rule: str
    """Identifier of the rule, e.g. "policy.import", "provenance.mma", "numerics.bound"."""
    message: str
    status: Status | None = None
    """The verdict this finding calls for; None for a warning."""
    shape: str = ""
    place: str = ""
    """A source line or the indices of an element."""
    got: str = ""
    want: str = ""
    bound: str = ""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.shape, self.place) if part)
        return f"{where}: {self.message}" if where else self.message


class Quantity(Record):
    """A number with its interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Prediction(Record):
    """Modelled time of one call at one shape. It ranks and prunes; it is never shown as a measurement."""

    shape: str
    us: FiniteFloat = Field(gt=0)
    utilization: float | None = None
    """Fraction of the data-sheet peak; None where the product's peak is unknown."""
    roofline: float | None = None
    """Compulsory roofline time over predicted time."""
    terms: Mapping[str, FiniteFloat] = {}
    """Microseconds by term: tensor, shared, l2, hbm, issue, latency, launch, ..."""
    bound: str = ""
    """Name of the largest term."""
    confidence: Literal["high", "medium", "low"] = "low"
    calibrated: bool = False
    """Whether the product's constants were fitted to measurements."""
    warnings: tuple[str, ...] = ()


NO_DEVICE_TIME = "no device-only time"


class Measurement(Record):
    """Measured time of one call at one shape in one regime, by the judge's clock."""

    shape: str
    regime: Literal["burst", "sustained"]
    host_us: Quantity
    """Host-inclusive time per call."""
    device_us: Quantity | None = None
    """Without the host's code: the recorded launches, replayed and timed by a process of the judge's. None when it was
    not asked for, or with a warning that begins with NO_DEVICE_TIME and says why."""
    utilization: Quantity | None = None
    """Of the data-sheet peak."""
    utilization_at_clock: Quantity | None = None
    """Of the peak at the sampled SM clock."""
    roofline: Quantity | None = None
    baseline_ratio: Quantity | None = None
    """Baseline time over candidate time in the same run; above 1 the candidate is faster."""
    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    tensor_active: float | None = None
    """Part of the time in which the tensor pipes were at work under a lasting load, by the device's own counters."""
    throttle: tuple[str, ...] = ()
    calls: int = 0
    warnings: tuple[str, ...] = ()


class StageResult(Record):
    """What one stage found. `artifacts` stays in memory for later stages and is never journaled."""

    stage: str
    outcome: Outcome
    facts: Mapping[str, Any] = {}
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    artifacts: Mapping[str, Any] = Field(default={}, exclude=True, repr=False)

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Self:
        if self.outcome is Outcome.FAILED and not any(f.status for f in self.findings):
            raise ValueError(f"stage {self.stage} failed without a finding that says why")
        return self


class Toolchain(Record):
    """Versions that a compiled fact depends on."""

    python: str
    torch: str
    triton: str
    ptxas: str = ""
    numpy: str = ""


class Trial(Record):
    """One parameter point of a submission."""

    n: int = Field(ge=1)
    """Number within the submission, from 1."""
    submission: int
    parameters: Parameters
    status: Status
    score: float | None = None
    evidence: Evidence | None = None
    predictions: tuple[Prediction, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = {}
    """The few facts worth keeping: registers, spills, shared, occupancy of the main kernel."""
    pruned: str = ""
    """Why it was not taken further, if so."""
    seconds: float = 0.0


class Verdict(Record):
    """The end of an evaluation. Merit (`score`) and provenance (`status`, `findings`) are separate."""

    submission: int
    sha: str
    status: Status
    stages: tuple[StageResult, ...] = ()
    score: float | None = None
    """Geometric mean over all timing shapes; None unless every one has a number."""
    evidence: Evidence | None = None
    predictions: tuple[Prediction, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    target: str
    """Key of the product, e.g. "h200"."""
    toolchain: Toolchain
    evaluator: int
    """Version of the evaluator's rules (kopt.evaluate.VERSION); older verdicts keep theirs."""
    seconds: float = 0.0

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.status is not Status.PASSED and self.score is not None:
            raise ValueError("only a passed submission has a score")
        if (self.score is None) != (self.evidence is None):
            raise ValueError("a score needs evidence, and evidence a score")
        if self.evidence is Evidence.MEASURED and not self.measurements:
            raise ValueError("a measured score needs measurements")
        return self

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(f for stage in self.stages for f in stage.findings)

    @property
    def reason(self) -> str:
        """One line: why it did not pass, or ""."""
        return next((str(f) for f in self.findings if f.status is self.status), "") if not self.passed else ""
