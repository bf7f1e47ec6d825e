"""Nights of optimization for the tests of pages: real kernels changed step by step, a model's calls and prices, trials,
verdicts with every fact; written by the product's own journal and records.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, log
from pathlib import Path
from typing import Any

import made_runs as m

from kopt import content
from kopt.journal import FILE, Journal
from kopt.machine.products import product
from kopt.meta import create
from kopt.records import (
    Contest,
    Evidence,
    Finale,
    Finding,
    Measurement,
    Outcome,
    Prediction,
    Quantity,
    StageResult,
    Status,
    Submission,
    Task,
    Trial,
    Verdict,
    digest,
)
from kopt.run import Run

GPU = {"name": "NVIDIA H200", "product": "h200", "memory_bytes": 141 << 30, "power_limit_w": 700.0}
MODEL = "anthropic:claude-made-up"
HOSTILE = '<script>window.bad=1</script><img src=x onerror="window.bad=2">"\'&amp;</title></script>\x1b[31m\u202egnp'
CHINESE = "改用持久化内核：每个流式多处理器一个程序，循环处理多个分块"
HEBREW = "ליבה מתמידה: תוכנית אחת לכל מעבד, מעבר על אריחים רבים"


@contextmanager
def no_fsync() -> Iterator[None]:
    """Made runs need not survive a crash of the machine."""
    real, os.fsync = os.fsync, lambda fd: None
    try:
        yield
    finally:
        os.fsync = real


def night(
    workspace: Path,
    count: int,
    *,
    seed: int = 0,
    measured: bool = False,
    model: bool = True,
    stop: str | None = "the budget of $40 is spent",
    notes: dict[int, str] | None = None,
    source: str = "",
    **over: Any,
) -> Path:
    """A run of `count` submissions below `workspace`. `notes` replaces notes by number, `source` is put into each."""
    task = content.load_task("fp8_gemm", workspace)
    values: dict[str, Any] = {
        "task_sha": task.sha, "proposer": f"model:{MODEL}" if model else "search",
        "machine": {"gpus": [GPU] if measured else [], "cpu": "AMD EPYC 9554", "cores": 64, "memory_bytes": 1 << 40,
                    "os": "Linux", "kernel": "6.8", "driver": "570.86", "packages": {"optuna": "4.2"}},
        "walls": {"uid": "up", "landlock": "up", "seccomp": "up"},
        "budget": m.Budget(dollars=40.0) if model else m.Budget(submissions=count, trials=400),
    }  # fmt: skip
    head = m.meta(**{**values, **over})
    folder = workspace / "submissions" / head.id
    create(folder, head)
    climb = m.climb(count, seed, evidence=Evidence.MEASURED if measured else Evidence.MODELLED)
    with no_fsync(), Journal(folder / FILE) as journal:
        writer = Writer(journal, folder, task, random.Random(seed), model=model, extra=source)
        journal.append("started", kopt="0.1.0", toolchain=m.TOOLCHAIN.model_dump())
        for n, made in enumerate(climb, 1):
            if notes and n in notes:
                made.note = notes[n]
            writer.submission(n, made)
        if stop is not None:
            journal.append("stopped", reason=stop)
    return folder


def finale(folder: Path, *, holds: bool = True) -> None:
    """The end of a measured night: its best is refuted, the next ones measured again; `holds` False: none stands."""
    run = Run.load(folder)
    task = content.load_task("fp8_gemm", folder)
    entries = sorted((e for e in run if e.score is not None), key=lambda e: (-(e.score or 0.0), e.n))[:4]
    with no_fsync(), Journal(folder / FILE) as journal:
        stood: list[Contest] = []
        for i, entry in enumerate(entries):
            common = {"submission": entry.n, "sha": entry.submission.sha, "processes": 4, "seconds": 90.0}
            if i == 0 or not holds:
                wrong = Finding(rule="judge.wrong", message=f"rows are off, {HOSTILE}", status=Status.WRONG)
                contest = Contest(status=Status.WRONG, findings=(wrong,), **common)
            else:
                u = (entry.score or 0.1) * 0.985
                taken = []
                for shape in task.timing:
                    us = (
                        2.0
                        * shape.dims["M"]
                        * shape.dims["N"]
                        * shape.dims["K"]
                        / (product("h200").peaks["fp8"] * 1e6)
                        / u
                    )
                    taken.append(_measurement(shape.name, "burst", us, u))
                quads = {shape.name: (-0.01,) * 20 for shape in task.timing}
                contest = Contest(status=Status.PASSED, score=u, measurements=tuple(taken), quads=quads, **common)
                stood.append(contest)
            journal.append("contest", contest=contest.model_dump(mode="json"))
        won = stood[0] if stood else None
        slower = [
            _measurement(x.shape, "sustained", x.host_us.value / 0.9, x.utilization.value * 0.9)
            for x in (won.measurements if won else ())
            if x.utilization
        ]
        closed = Finale(
            winner=won.submission if won else None, score=won.score if won else None,
            measurements=won.measurements if won else (), quads=20 if won else 0, incumbent=entries[0].n,
            submissions=len(run.entries), target="h200", toolchain=m.TOOLCHAIN, evaluator=1,
            sustained=tuple(slower), sustained_seconds=30.0 if won else 0.0,
            reason=f"the best of {len(stood)} measured again" if won else f"none of {len(entries)} held up",
        )  # fmt: skip
        for said in (closed.model_copy(update={"sustained": ()}), closed) if won else (closed,):
            journal.append("finale", finale=said.model_dump(mode="json"))
        journal.append("stopped", reason="the budget of 20 minutes is spent")


class Writer:
    """Appends one submission after the other, as a session and a model would."""

    def __init__(
        self, journal: Journal, folder: Path, task: Task, draw: random.Random, *, model: bool = True, extra: str = ""
    ) -> None:
        self.journal, self.folder, self.task, self.draw, self.model, self.extra = (
            journal, folder, task, draw, model, extra
        )  # fmt: skip
        self.families = [path.read_text(encoding="utf-8") for path in content.families(task, folder)]
        self.best: tuple[float, int, str] = (0.0, 0, self.families[0])

    def submission(self, n: int, made: m.Made) -> None:
        log_, draw = self.journal, self.draw
        _, parent, base = self.best
        text = self._change(base, n)
        parameters = {"BLOCK_M": draw.choice([64, 128, 256])} if n % 3 == 0 else {}
        sha = digest(text, parameters)
        origin = f"model:{MODEL}" if self.model else "search"
        submission = Submission(
            n=n, sha=sha, parameters=parameters, parent=parent or None, origin=origin, note=made.note
        )
        if self.model:
            self._calls(n)
        (self.folder / "sources" / submission.file).write_text(text, encoding="utf-8")
        log_.append("proposed", submission=submission.model_dump(mode="json"))
        self._pass(60)
        if n % 12 == 1:
            self._trials(n, made)
        if not made.finished:
            return
        verdict = self.verdict(n, sha, made)
        log_.append("verdict", verdict=verdict.model_dump(mode="json"), reason=verdict.reason)
        if self.model:
            said = f"Submission {n}: {verdict.status}.\n{verdict.reason}\nThe binding limit is l2.\n" * 3
            log_.append("tool", origin=origin, name="evaluate", ok=True, seconds=61.0, submission=n, text=said)
        if verdict.score is not None and verdict.score > self.best[0]:
            self.best = (verdict.score, n, text)

    def _pass(self, seconds: float) -> None:
        # A night is written in a second: the journal's clock is set forward instead.
        self.journal._started -= seconds

    def _calls(self, n: int) -> None:
        about = {"episode": 1 + n // 10, "turn": n, "model": MODEL, "purpose": "episode"}
        self.journal.append("request", **about, attempt=1, reserved=0.4)
        self._pass(25)
        self.journal.append("reply", **about, usage={"input": 30_000, "cache_read": 20_000, "output": 4000},
                            dollars=0.21, seconds=25.0, parts=[])  # fmt: skip
        for name in ("history", "read", "profile", "screen"):
            said, ok = f"{name}: registers 168, shared memory 196608, " * 3, name != "read" or n % 5 > 0
            self.journal.append("tool", origin=f"model:{MODEL}", name=name, ok=ok, text=said, seconds=1.5)

    def _change(self, base: str, n: int) -> str:
        """A few lines changed, as a model does; now and then another family."""
        draw = self.draw
        lines = (draw.choice(self.families) if draw.random() < 0.1 else base).splitlines()
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(lines) // 3, len(lines))
            lines.insert(at, f"    # idea {n}: {draw.choice(m.IDEAS).lower()}")
        for _ in range(draw.randrange(0, 4)):
            at = draw.randrange(len(lines))
            lines[at] = lines[at].replace("128", str(draw.choice([64, 256]))).replace("  # noqa", "")
        return "\n".join([*lines, *([self.extra] if self.extra else [])]) + "\n"

    def _trials(self, n: int, made: m.Made) -> None:
        draw = self.draw
        for i in range(1, 25):
            point = {
                "BLOCK_M": draw.choice([64, 128, 256]),
                "NUM_WARPS": draw.choice([4, 8]),
                "GROUP_M": draw.choice([4, 8]),
            }
            score = (made.score or 0.2) * (0.6 + 0.15 * (point["BLOCK_M"] // 64) ** 0.5 + 0.02 * draw.random())
            failed = draw.random() < 0.1
            status = Status.COMPILE_ERROR if failed else Status.PASSED
            trial = Trial(n=i, submission=n, parameters=point, status=status, score=None if failed else min(score, 0.9),
                          evidence=None if failed else Evidence.MODELLED)  # fmt: skip
            self._pass(4)
            self.journal.append("trial", trial=trial.model_dump(mode="json"), wall=4.0)

    def verdict(self, n: int, sha: str, made: m.Made) -> Verdict:
        gpu = product("h200")
        measured = made.evidence is Evidence.MEASURED
        stages = [StageResult(stage="policy", outcome=Outcome.PASSED, seconds=0.01)]
        predictions: list[Prediction] = []
        measurements: list[Measurement] = []
        score = made.score
        if made.status is Status.PASSED:
            assert score is not None
            facts = {
                "name": "gemm_kernel", "registers": 168, "spill_stores": n % 3 * 8, "spill_loads": 0, "shared": 196608,
                "shared_limit": 232448, "occupancy": 1, "occupancy_limit": "shared memory", "warps": 8, "stages": 3,
                "mma": {"QGMMA.64x256x32.F32.E4M3.E4M3": 16}, "waits_per_mma": 0.25, "arch": 90,
                "remarks": ["C7510: wgmma serialised in function gemm_kernel"] if n % 4 == 0 else [],
            }  # fmt: skip
            stages.append(
                StageResult(stage="trace", outcome=Outcome.PASSED, seconds=1.5, facts={"kernels": {"k1": facts}})
            )
            stages.append(StageResult(stage="numerics", outcome=Outcome.PASSED, seconds=20.0, facts={"problems": 23}))
            stages.append(StageResult(stage="predict", outcome=Outcome.PASSED, seconds=3.0))
            if measured:
                phases = {"start": 2.0, "check": 6.0, "warm": 4.0, "quads": 21.0}
                stages.append(
                    StageResult(stage="measure", outcome=Outcome.PASSED, seconds=33.0, facts={"seconds": phases})
                )
            factors = [1.1, 1.02, 0.97]
            factors.append(1 / exp(sum(log(f) for f in factors)))
            for shape, factor in zip(self.task.timing, [*factors, *[1.0] * len(self.task.timing)], strict=False):
                flops = 2.0 * shape.dims["M"] * shape.dims["N"] * shape.dims["K"]
                u = min(score * factor, 0.99)
                us = flops / (gpu.peaks["fp8"] * 1e6) / u
                predictions.append(Prediction(
                    shape=shape.name, us=us * (1.15 + 0.1 * self.draw.random()), utilization=u / 1.2, roofline=u / 1.2,
                    terms={"tensor": us * 0.6, "l2": us * 0.4, "hbm": us * 0.2}, bound="tensor", confidence="medium",
                ))  # fmt: skip
                if measured:
                    measurements += [_measurement(shape.name, regime, us, u) for regime in ("burst", "sustained")]
        else:
            rule, message = m.REASONS[made.status]
            finding = Finding(rule=rule, message=made.message or message, status=made.status, shape="ragged",
                              place="(17, 63)", got="1.5", want="1.25", bound="0.01")  # fmt: skip
            stages.append(StageResult(stage="numerics", outcome=Outcome.FAILED, findings=(finding,), seconds=1.0))
        return Verdict(
            submission=n, sha=sha, status=made.status, stages=tuple(stages), score=score,
            evidence=made.evidence if score is not None else None, predictions=tuple(predictions),
            measurements=tuple(measurements), target="h200", toolchain=m.TOOLCHAIN, evaluator=1,
            seconds=sum(stage.seconds for stage in stages),
        )  # fmt: skip


def _measurement(shape: str, regime: str, us: float, u: float) -> Measurement:
    slow = 1.0 if regime == "burst" else 1.06

    def around(value: float) -> Quantity:
        return Quantity(value=value, low=value * 0.985, high=value * 1.015)

    return Measurement(
        shape=shape, regime=regime, host_us=around(us * slow), device_us=around(us * slow * 0.96),
        utilization=around(u / slow), utilization_at_clock=around(u * 1.04) if regime == "sustained" else None,
        roofline=around(u / slow), baseline_ratio=around(1.1 * u / 0.62), clock_mhz=1755 if regime == "burst" else 1410,
        power_w=640.0, temperature_c=58.0, throttle=() if regime == "burst" else ("power cap",), calls=4000,
    )  # type: ignore[arg-type]  # fmt: skip
