"""Runs for tests, written by the product's own journal and records: no hand-made JSON."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kopt.budget import Budget
from kopt.journal import FILE, Journal
from kopt.meta import Meta, create
from kopt.records import (
    Evidence,
    Finding,
    Measurement,
    Outcome,
    Prediction,
    Quantity,
    StageResult,
    Status,
    Submission,
    Toolchain,
    Trial,
    Verdict,
    digest,
)
from kopt.run import Run

TOOLCHAIN = Toolchain(python="3.11.7", torch="2.13.0", triton="3.7.1")

REASONS = {
    Status.REJECTED: ("provenance.mma", "no FP8 matrix instruction: the kernel multiplies in bf16"),
    Status.COMPILE_ERROR: ("trace.shared", "327680 bytes of shared memory, h200 has 232448"),
    Status.WRONG: ("numerics.bound", "element (17, 63) is off"),
    Status.CRASHED: ("numerics.crash", "the worker died of signal 11"),
    Status.TIMEOUT: ("numerics.timeout", "no answer within 60 s"),
}


@dataclass
class Made:
    """One submission to write: a score for a passed one, a status for a failed one."""

    score: float | None = None
    status: Status = Status.PASSED
    note: str = "TMA descriptors: let the copy engine move the tiles"
    origin: str = "search"
    evidence: Evidence = Evidence.MODELLED
    parameters: dict[str, Any] = field(default_factory=dict)
    parent: int | None = None
    trials: Sequence[float] = ()
    finished: bool = True
    message: str | None = None
    kernel: dict[str, Any] = field(default_factory=dict)
    """Traced facts in place of ordinary ones."""


def meta(id: str = "fp8_gemm-20260101-000000", **over: Any) -> Meta:
    values: dict[str, Any] = {
        "id": id, "created": 1767225600.0, "kopt": "0.1.0", "evaluator": 1, "task": "fp8_gemm", "task_sha": "0" * 64,
        "target": "h200", "proposer": "search", "seed": 0, "budget": Budget(submissions=40, trials=36),
        "toolchain": TOOLCHAIN,
    }  # fmt: skip
    return Meta(**{**values, **over})


def write(workspace: Path, made: Sequence[Made], *, stop: str | None = "the budget of 40 submissions is spent",
          extra: Sequence[dict[str, Any]] = (), **over: Any) -> Path:  # fmt: skip
    """A run below `workspace`, as a session would have left it; returns its folder."""
    head = meta(**over)
    folder = workspace / "submissions" / head.id
    create(folder, head)
    with Journal(folder / FILE) as log:
        log.append("started", kopt="0.1.0", toolchain=TOOLCHAIN.model_dump())
        for n, one in enumerate(made, 1):
            _write_one(log, folder, n, one, head.target)
        for event in extra:
            log.append(**event)
        if stop is not None:
            log.append("stopped", reason=stop)
    return folder


def _write_one(log: Journal, folder: Path, n: int, one: Made, target: str) -> None:
    source = f'"""Submission {n}."""\n\n\ndef fp8_gemm(a, b, scale_a, scale_b, out, *, BLOCK_M=128):\n    return None\n'
    sha = digest(source, one.parameters)
    submission = Submission(
        n=n, sha=sha, parameters=one.parameters, parent=one.parent, origin=one.origin, note=one.note
    )
    (folder / "sources" / submission.file).write_text(source, encoding="utf-8")
    log.append("proposed", submission=submission.model_dump(mode="json"))
    for i, score in enumerate(one.trials, 1):
        trial = Trial(n=i, submission=n, parameters={"BLOCK_M": 64 * i}, status=Status.PASSED, score=score,
                      evidence=one.evidence)  # fmt: skip
        log.append("trial", trial=trial.model_dump(mode="json"))
    if one.finished:
        verdict = judged(n, sha, one, target)
        log.append("verdict", verdict=verdict.model_dump(mode="json"), reason=verdict.reason)


def judged(n: int, sha: str, one: Made, target: str = "h200") -> Verdict:
    prediction = Prediction(
        shape="4096", us=139000.0 / ((one.score or 0.5) * 1979), utilization=one.score, roofline=one.score,
        terms={"tensor": 80.0, "l2": 60.0, "hbm": 20.0}, bound="tensor", confidence="medium",
    )  # fmt: skip
    stages = [StageResult(stage="policy", outcome=Outcome.PASSED, seconds=0.01)]
    if one.status is Status.PASSED:
        stages += [
            StageResult(stage="trace", outcome=Outcome.PASSED, seconds=1.5, facts={"kernels": {"k1": {
                "name": "gemm_kernel", "registers": 168, "spill_stores": 0, "spill_loads": 0, "shared": 196608,
                "shared_limit": 232448, "occupancy": 1, "warps": 8, "stages": 3, "mma": {"QGMMA.64x256x32": 16},
                "remarks": [], "waits_per_mma": 0.25, "arch": 90, **one.kernel}}}),
            StageResult(stage="numerics", outcome=Outcome.PASSED, seconds=2.0),
            StageResult(stage="predict", outcome=Outcome.PASSED, seconds=0.3),
        ]  # fmt: skip
    else:
        rule, message = REASONS[one.status]
        finding = Finding(rule=rule, message=one.message or message, status=one.status, shape="ragged",
                          place="(17, 63)", got="1.5", want="1.25", bound="0.01")  # fmt: skip
        stages.append(StageResult(stage="numerics", outcome=Outcome.FAILED, findings=(finding,), seconds=1.0))
    measured = one.evidence is Evidence.MEASURED and one.score is not None
    return Verdict(
        submission=n, sha=sha, status=one.status, stages=tuple(stages), score=one.score,
        evidence=one.evidence if one.score is not None else None,
        predictions=(prediction,) if one.status is Status.PASSED else (),
        measurements=(Measurement(shape="4096", regime="sustained", host_us=Quantity(value=120.0, low=118, high=122),
                                  utilization=Quantity(value=one.score or 0.1)),) if measured else (),
        target=target, toolchain=TOOLCHAIN, evaluator=1, seconds=4.0,
    )  # fmt: skip


IDEAS = (
    "Naive pointers: one small tile per program", "K-major with grouped ordering: neighbours share rows in L2",
    "TMA descriptors: let the copy engine move the tiles", "Four stages; what the sub-tiled epilogue makes room for",
    "CUDA graph: the host steps aside", "TMA persistent: one program per SM",
    "Host-side scheduling. Longest tiles first", "Swap A and B for small M",
)  # fmt: skip


def climb(count: int, seed: int = 0, top: float = 0.70, evidence: Evidence = Evidence.MODELLED) -> list[Made]:
    """A night's worth of submissions: landmarks, a slow creep between them, and failures of every kind."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(count), min(count, len(IDEAS))))
    steps[0] = 0
    made, best = [], 0.0
    for n in range(count):
        if n in steps:
            i = steps.index(n)
            best = 0.076 + (top - 0.076) * (i + 1) / len(steps) if i else 0.076
            made.append(Made(best, note=IDEAS[i], evidence=evidence))
        elif draw.random() < 0.35:
            made.append(Made(status=draw.choice(list(REASONS)), note="Deeper pipeline", evidence=evidence))
        else:
            score = best * (1 - abs(draw.gauss(0, 0.12)))
            if draw.random() < 0.05:
                score = best = best * 1.004
            made.append(Made(max(score, 0.01), note="BLOCK_N 128 -> 256", parameters={"BLOCK_M": n}, evidence=evidence))
    return made


def load(folder: Path) -> Run:
    return Run.load(folder)
