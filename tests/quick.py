"""Sessions for tests of the loop: everything real but the compiler, whose work takes seconds and is tested elsewhere.

`Quick` stands where the evaluator's worker processes would: it runs the real policy stage and then gives a verdict that
is a function of the source alone. Every other part, journal, budget, tools, texts, is the product's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kopt import content
from kopt.budget import Budget
from kopt.evaluate.policy import Policy
from kopt.evaluate.sass import Instruction
from kopt.evaluate.stage import Case, Stage
from kopt.journal import FILE, Journal
from kopt.machine.products import product
from kopt.meta import Meta, create
from kopt.records import (
    Evidence,
    Finding,
    KernelFacts,
    Outcome,
    Parameters,
    Prediction,
    StageResult,
    Status,
    Submission,
    Task,
    Toolchain,
    Trial,
    Verdict,
    digest,
)
from kopt.run import Run
from kopt.session import Session

WORKSPACE = Path(__file__).parent / "data" / "tiny"
TOOLCHAIN = Toolchain(python="3.11.7", torch="2.13.0", triton="3.7.1")
SCORE = re.compile(r"# score (\d\.\d+)")


def kernel(score: float | None = None, *, block: int = 256, tune: str = "", extra: str = "") -> str:
    """A file that keeps axpy's contract. `score` is what Quick gives it; None makes it wrong."""
    mark = "" if score is None else f"SCORE = {score}  # score {score:.6f}\n"
    return (
        f'"""A kernel."""\n\nimport triton\nimport triton.language as tl\n\n{tune}{mark}{extra}\n\n'
        f"def axpy(x, y, out, *, BLOCK={block}):\n    return None\n"
    )


class Quick:
    """In the evaluator's place: see the module's text."""

    cores = 2
    evidence = Evidence.MODELLED

    def __init__(self, task: Task, on_judge: Callable[[Submission], None] | None = None) -> None:
        self.task = task
        self.target = product("h200")
        self.toolchain = TOOLCHAIN
        self.stages: tuple[Stage, ...] = (Policy(),)
        self.judged = 0
        self._on_judge = on_judge

    def hurry(self) -> None:
        """It waits for nothing."""

    def evaluate(self, source: str, parameters: Parameters | None = None, **_: Any) -> Verdict:
        pinned = dict(parameters or {})
        return self.judge(Submission(n=1, sha=digest(source, pinned), parameters=pinned, origin="user"), source)

    def screen(self, source: str, parameters: Parameters | None = None) -> Verdict:
        return self.evaluate(source, parameters)

    def judge(self, submission: Submission, source: str, on_stage: Callable[[str], None] | None = None) -> Verdict:
        self.judged += 1
        if self._on_judge:
            self._on_judge(submission)
        if on_stage:
            on_stage("policy")
        case = Case(self.task, submission, source, self.target, submission.parameters)
        stages = [Policy().run(case, {})]
        value = _score(source, submission.parameters)
        if stages[0].outcome is Outcome.FAILED:
            status = next(f.status for f in stages[0].findings if f.status)
        elif value is None:
            status = Status.WRONG
            finding = Finding(rule="numerics.bound", message="out[3]: got 1.5, expected 2.5 ± 0.001", status=status,
                              shape="ragged", got="1.5", want="2.5", bound="0.001")  # fmt: skip
            stages.append(StageResult(stage="numerics", outcome=Outcome.FAILED, findings=(finding,)))
        else:
            status = Status.PASSED
            stages.append(StageResult(stage="trace", outcome=Outcome.PASSED, facts=FACTS))
        passed = status is Status.PASSED
        return Verdict(
            submission=submission.n, sha=submission.sha, status=status, stages=tuple(stages),
            score=value if passed else None, evidence=Evidence.MODELLED if passed else None,
            predictions=(prediction(value),) if passed and value else (), target="h200", toolchain=TOOLCHAIN,
            evaluator=1,
        )  # fmt: skip

    def try_parameters(self, submission: Submission, source: str, parameters: Parameters, n: int) -> Trial:
        value = _score(source, {**submission.parameters, **parameters})
        return Trial(n=n, submission=submission.n, parameters=parameters, status=Status.PASSED, score=value,
                     evidence=Evidence.MODELLED if value else None)  # fmt: skip

    def kernels(self, submission: Submission, source: str) -> Mapping[str, KernelFacts]:
        facts = FACTS["kernels"]["k1"]
        return {"k1": KernelFacts(**facts, hot_lines={"3": {"LDG": 4, "FFMA": 8}})}

    def hot_loop(self, kernel: KernelFacts) -> tuple[Instruction, ...]:
        code = [("LDG.E.128", "R4, [R2.64]"), *[("FFMA", "R4, R4, 2, R8")] * 8, ("BRA", "0x40")]
        return tuple(Instruction(16 * i, *pair) for i, pair in enumerate(code))


FACTS: dict[str, Any] = {
    "kernels": {
        "k1": {
            "id": "k1", "name": "axpy_kernel", "arch": 90, "warps": 4, "stages": 3, "registers": 26, "spill_stores": 0,
            "spill_loads": 0, "shared": 0, "shared_limit": 232448, "occupancy": 16, "occupancy_limit": "registers",
            "mma": {}, "opcodes": {"LDG": 4, "STG": 2, "FFMA": 8}, "remarks": [], "depth": None, "waits_per_mma": None,
        }
    },
    "calls": {"1m": [{"kernel": "k1", "name": "axpy_kernel", "grid": [1024, 1, 1]}]},
    "host_us": {"1m": 105.5},
}  # fmt: skip


def prediction(value: float) -> Prediction:
    return Prediction(shape="1m", us=5.0 / value, roofline=value, terms={"hbm": 3.0, "l2": 1.2, "launch": 2.5},
                      bound="hbm", confidence="medium")  # fmt: skip


def _score(source: str, pinned: Parameters) -> float | None:
    found = SCORE.search(source)
    if found is None:
        return None
    # Parameters change it a little, so that there is something to tune.
    change = int(hashlib.sha256(repr(sorted(pinned.items())).encode()).hexdigest()[:4], 16) / 65536 if pinned else 0.0
    return float(found[1]) * (1 + 0.1 * change)


def meta(id: str = "axpy-1", proposer: str = "model:test", **over: Any) -> Meta:
    values: dict[str, Any] = {
        "id": id, "created": 1767225600.0, "kopt": "0.1.0", "evaluator": 1, "task": "axpy", "task_sha": "0" * 64,
        "target": "h200", "proposer": proposer, "seed": 0, "budget": Budget(), "metric": "roofline",
        "toolchain": TOOLCHAIN,
    }  # fmt: skip
    return Meta(**{**values, **over})


def task() -> Task:
    return content.load_task("axpy", WORKSPACE)


@contextmanager
def session(
    workspace: Path, *, budget: Budget | None = None, on_judge: Callable[[Submission], None] | None = None,
    kept: float = 0.0, **over: Any
) -> Iterator[Session]:  # fmt: skip
    """A live session on a new run below `workspace`, or on the one that is there. `kept`: seconds for the finale."""
    head = meta(**over)
    folder = workspace / "submissions" / head.id
    if not folder.exists():
        create(folder, head)
    with Journal(folder / FILE) as log:
        run = Run.load(folder)
        quick: Any = Quick(task(), on_judge)
        made = Session(run, log, task(), quick, budget or Budget(), reserve=lambda run: kept)
        made.began(kopt="0.1.0", toolchain=TOOLCHAIN.model_dump())
        yield made
