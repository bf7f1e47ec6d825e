"""How much to measure, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kopt.records import Finding, Measurement, Parameters, Status
from kopt.records.base import Record

Regime = Literal["burst", "sustained"]

BATCH_US: Mapping[Regime, float] = {"burst": 10_000.0, "sustained": 100_000.0}
"""Work in one batch. Power limits answer within tens of milliseconds, so a burst ends before they do."""
IDLE_S: Mapping[Regime, float] = {"burst": 0.1, "sustained": 0.0}
"""Seconds since the device last worked hard, before a batch."""
HEAT_S: Mapping[Regime, float] = {"burst": 0.0, "sustained": 0.45}
"""Seconds of the judge's own load before a batch: drawing and checking let the device cool, and NVML's clock is an
average over half a second."""

WARM_S = 3.0
"""Seconds of load before the first batch of a sustained series: the power limit finds its clock within one or two."""


class Plan(Record):
    """How many quads, in how many processes, within how long."""

    quads: int = Field(default=4, ge=1)
    """ABBA quads per shape, over all processes."""
    regime: Regime | None = None
    """None for the task's first."""
    precision: float | None = None
    """A shape is done before it has all its quads when the ratio's 95 % interval reaches no further than this fraction
    to either side; three quads are the fewest for that. None: all of them, whatever they show."""
    processes: int = Field(default=1, ge=1)
    """Fresh processes of the candidate, one after the other, that share the quads."""
    check: bool = True
    """Whether the check shapes come first. A configuration of a source that passed them may skip them."""
    replay: bool = True
    """Whether a traced call's launches are replayed without its host code, for the time of the device alone."""
    graph: bool = True
    """Whether, where nothing can be replayed, batches are captured in a CUDA graph beside the kernel instead."""
    agreement: bool = True
    """Whether it is tried that a call costs the same in any batch."""
    witness: bool = False
    """Whether the device's own counters are read under a lasting load of calls, to see that its units did the work."""
    accuracy: bool = True
    """Whether errors are compared with the vendor library's, and a batch with itself."""
    batch_us: float | None = None
    """Work in a batch, microseconds; None for the regime's own."""
    rest: float = 1.0
    """How much of the regime's rest there is before a batch."""
    idle_s: float | None = None
    """Rest before a batch, seconds, whatever the regime."""
    most_calls: int = Field(default=4096, ge=2)
    seconds: float = 120.0
    """For everything; what is not measured by then is a timeout."""
    call_seconds: float = 20.0
    """For the import and for the first call of a shape, compilation included; later batches get a fifth of it."""


SCREENING = Plan(quads=4, precision=0.01, graph=False, agreement=False, rest=0.5)
"""On an H200 times, ratios to the vendor library and their spread differ between rests of 50 and 100 ms by no more than
they do from one verdict to the next (docs/judge-feasibility.md)."""
PROMOTION = Plan(quads=12, processes=3, witness=True, seconds=300.0)
HEADLINE = Plan(quads=20, processes=4, witness=True, seconds=600.0)
LASTING = Plan(quads=3, regime="sustained", check=False, replay=False, graph=False, agreement=False, seconds=300.0)
"""What is added to a headline, of a kernel whose checks are behind it."""


class Rival(Record):
    """What the candidate is measured against. Without a source: the task's baseline."""

    source: str | None = None
    parameters: Parameters = {}
    binaries: Path | None = None
    """A Triton cache with what it launches, as `Judge.measure` takes one for the candidate."""


class Judgement(Record):
    """What the judge found out about one source at one parameter point."""

    status: Status
    measurements: tuple[Measurement, ...] = ()
    """One per timing shape that was asked for; empty unless passed."""
    findings: tuple[Finding, ...] = ()
    quads: Mapping[str, tuple[float, ...]] = {}
    """log(candidate / rival) of every valid quad, by shape: what promotion is decided from."""
    facts: Mapping[str, Any] = {}
    seconds: float = 0.0
