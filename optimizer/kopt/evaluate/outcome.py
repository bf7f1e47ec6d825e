"""What a list of stage results amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kopt.records import Finding, KernelFacts, Measurement, Outcome, Prediction, StageResult, Status


def status_of(results: Sequence[StageResult]) -> Status:
    """What a list of stage results amounts to: the status of the first finding that calls for one, else passed."""
    for result in results:
        if result.outcome is Outcome.FAILED:
            return next(f.status for f in result.findings if f.status)
    return Status.PASSED


def failures(results: Sequence[StageResult]) -> tuple[Finding, ...]:
    return tuple(f for r in results for f in r.findings if f.status)


def main_kernel(results: Sequence[StageResult]) -> dict[str, object]:
    """The few facts worth keeping of a trial: those of the kernel with the most matrix instructions."""
    kernels: Mapping[str, KernelFacts] = next(
        (r.artifacts.get("kernels", {}) for r in results if r.stage == "trace"), {}
    )
    if not kernels:
        return {}
    main = max(kernels.values(), key=lambda k: (sum(k.mma.values()), k.registers))
    keep = ("name", "registers", "spill_stores", "spill_loads", "shared", "occupancy", "depth", "waits_per_mma")
    return {"kernel": main.id[:12], **{key: getattr(main, key) for key in keep}}


def measurements(results: Sequence[StageResult]) -> tuple[Measurement, ...]:
    return next((tuple(r.artifacts.get("measurements", ())) for r in results if r.stage == "measure"), ())


def predictions(results: Sequence[StageResult]) -> tuple[Prediction, ...]:
    return next((tuple(r.artifacts.get("predictions", ())) for r in results if r.stage == "predict"), ())
