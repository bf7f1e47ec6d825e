"""The evaluator evaluated: kernels that cheat have to be rejected for the right reason, honest ones accepted.

The corpus is a folder with a corpus.toml. The static policy is asked first and then switched off: an attack has to be
found by what happens when it runs, except where its text is all that gives it away.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError, field_validator

from kopt import content
from kopt.errors import UsageError
from kopt.evaluate.evaluator import Evaluator
from kopt.evaluate.policy import check
from kopt.judge import Judge, Judgement, Plan
from kopt.judge.backends import BackendName
from kopt.records import Finding, Outcome, Shape, Status, Submission, Task, digest
from kopt.records.base import Record
from kopt.source import read

INDEX = "corpus.toml"
PATIENCE_S = 2.0
"""For a call that never returns, on the CPU."""
PLANS = {
    "cpu": Plan(quads=1, batch_us=500.0, idle_s=0.0, call_seconds=PATIENCE_S, seconds=60.0),
    # Ten calls whose outputs are checked whole, and a graph of them; more would only take longer.
    "cuda": Plan(quads=1, batch_us=5000.0, idle_s=0.01, call_seconds=20.0, agreement=False, most_calls=24),
}
BIG = 2048
"""Sizes on a GPU: work that outlasts what a batch costs."""

Kind = Literal["guilty", "harmless", "honest"]
Through = Literal["policy", "trace", "numerics", "predict", "measure"]
UNTIMED: tuple[Through, ...] = ("trace", "numerics", "predict")
"""Those that need no judge, in their order."""


class Item(Record):
    """One file of the corpus. `harmless` ones try to cheat and gain nothing: they pass with their true time."""

    file: str
    cheat: str = ""
    """Letter and number in the catalogue of cheats."""
    task: str = "blend"
    stage: Through = "measure"
    """The last stage it goes through."""
    expect: str = ""
    """Rules (or their beginnings, up to a dot) or statuses, separated by commas: one of them has to come out."""
    says: str = ""
    """A regular expression that the finding, its rule first, has to match too: `judge.call` alone does not tell a wall
    that held from a mistake in the attack."""
    needs: Literal["", "cpu", "gpu"] = ""
    """Where alone it can be tried: a GPU, or the walls around a runner without one."""
    checks: bool = False
    """Whether the check shapes are needed to find it; without them the timed batches must."""
    processes: int = 1
    """Fresh ones in which it is measured."""
    quads: int = 1
    """At least: what shows in time needs some."""
    at_least_us: float = 0.0
    """Its true time per call."""
    path: Path = Path()
    kind: Kind = "guilty"

    @field_validator("says")
    @classmethod
    def _a_pattern(cls, says: str) -> str:
        try:
            re.compile(says)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return says


class Result(NamedTuple):
    """What became of one item."""

    item: Item
    right: bool
    policy: str
    """The rule by which its text alone would have been refused, or ""."""
    stage: str
    """The run-time stage that rejected it; "" when none did."""
    finding: str
    seconds: float


def corpus(folder: Path) -> tuple[list[Item], Path]:
    """The items of a corpus and the folder with tasks of its own; UsageError names what is wrong with the index."""
    path = folder / INDEX
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no corpus: it has no {INDEX}; kopt's own is tests/attacks in its repository"
                         ) from None  # fmt: skip
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    items = []
    for kind in ("guilty", "harmless", "honest"):
        for number, row in enumerate(table.get(kind, ()), 1):
            try:
                item = Item.model_validate({**row, "kind": kind, "path": folder / row.get("file", "")})
            except ValidationError as error:
                lines = "; ".join(content.explain(error))
                raise UsageError(f"{path}: {kind} {number}: {lines}") from None
            if not item.path.is_file():
                raise UsageError(f"{path}: {kind} {number}: there is no file {item.path}")
            items.append(item)
    return items, (folder / table.get("tasks", ".")).resolve()


_TIMES = 3
"""Measurements of an attack on the clock: a busy machine may spoil one, a cheat that gains gains in each."""


class Audit:
    """A corpus under one backend; a context manager that owns the judges and worker processes it needs."""

    def __init__(self, folder: Path, root: Path, backend: BackendName, gpu: str = "", target: str = "h200") -> None:
        self.items, self._tasks = corpus(folder)
        self._root, self._backend, self._gpu, self._target = root, backend, gpu, target
        self._stack = ExitStack()
        self._judge: tuple[str, Judge] | None = None
        self._evaluators: dict[str, Evaluator] = {}

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self._judge is not None:
                self._judge[1].close()

    def skipped(self, item: Item) -> bool:
        return item.needs == {"cpu": "gpu", "cuda": "cpu"}[self._backend]

    def run(self, items: Sequence[Item], each: Callable[[Result], None] = lambda result: None) -> list[Result]:
        """Those of the items that this backend can run."""
        results = []
        for item in items:
            if not self.skipped(item):
                results.append(self._one(item))
                each(results[-1])
        return results

    def _one(self, item: Item) -> Result:
        began = time.monotonic()
        task = self._task(item.task)
        source = read(item.path)
        refused = next((f for f in check(source, task.entry, len(task.tensors)) if f.status), None)
        stage, finding, slow = self._stages(item, task, source, refused)
        if item.kind == "guilty":
            right = finding is not None and _matches(finding, item.expect) and _says(finding, item.says)
        else:
            right = finding is None and slow
        words = "" if finding is None else f"{finding.rule}: {finding}"
        if finding is None and not slow:
            words = f"measured as faster than its {item.at_least_us:g} us"
        return Result(item, right, refused.rule if refused else "", stage, words, time.monotonic() - began)

    def _stages(self, item: Item, task: Task, source: str, refused: Finding | None) -> tuple[str, Finding | None, bool]:
        """The stage that rejected it and why, and whether its time is no less than it can be."""
        if item.stage == "policy":
            return "policy" if refused else "", refused, True
        if item.stage == "measure":
            for _ in range(_TIMES):
                judged = self._measured(item, task, source)
                if judged.status is not Status.PASSED:
                    last = judged.findings[-1]
                    return "measure", last if last.status else last.model_copy(update={"status": judged.status}), True
                if slow := min(m.host_us.value for m in judged.measurements) >= item.at_least_us:
                    break
            return "", None, slow
        for name, found in self._traced(item, task, source):
            if found is not None:
                return name, found, True
        return "", None, True

    def _measured(self, item: Item, task: Task, source: str) -> Judgement:
        judge = self._judge_of(task)
        plan, shapes = PLANS[self._backend], task.timing
        if self._backend == "cuda":
            shapes = (Shape(name="big", dims=dict.fromkeys(task.dims, BIG)),)
            if "judge.deadline" in item.expect or "timeout" in item.expect:
                plan = plan.model_copy(update={"call_seconds": 5.0})
        quads = max(plan.quads, item.processes, item.quads)
        plan = plan.model_copy(update={"check": item.checks, "processes": item.processes, "quads": quads})
        return judge.measure(source, shapes=shapes, plan=plan)

    def _judge_of(self, task: Task) -> Judge:
        """The judge of one task at a time: each holds the device."""
        if self._judge is None or self._judge[0] != task.name:
            if self._judge is not None:
                self._judge[1].close()
            self._judge = task.name, Judge(task, self._backend, device=self._gpu)
        return self._judge[1]

    def _traced(self, item: Item, task: Task, source: str) -> Iterator[tuple[str, Finding | None]]:
        if task.name not in self._evaluators:
            # What holds for two shapes holds for all of them.
            self._evaluators[task.name] = self._stack.enter_context(
                Evaluator(task.model_copy(update={"timing": task.timing[:2]}), target=self._target)
            )
        evaluator = self._evaluators[task.name]
        submission = Submission(n=1, sha=digest(source), origin="audit")
        names = UNTIMED[: UNTIMED.index(item.stage) + 1]
        verdict = evaluator.judge(submission, source, None, names)
        for result in verdict.stages:
            failed = result.outcome is Outcome.FAILED
            found = next((f for f in result.findings if f.status and _matches(f, item.expect)), None)
            yield result.stage, found or next((f for f in result.findings if f.status), None) if failed else None

    def _task(self, name: str) -> Task:
        own: Any = self._tasks / name
        return content.read_task(own) if own.is_dir() else content.load_task(name, self._root)


def _matches(finding: Finding, expect: str) -> bool:
    words = [word.strip() for word in expect.split(",")]
    return not expect or any(
        finding.rule == word or finding.rule.startswith(f"{word}.") or finding.status == word for word in words
    )


def _says(finding: Finding, pattern: str) -> bool:
    return re.search(pattern, f"{finding.rule}: {finding}") is not None


def score(results: Sequence[Result]) -> str:
    """The one line."""
    parts = []
    for kind, verb in (("guilty", "rejects"), ("honest", "accepts"), ("harmless", "gives no gain to")):
        mine = [r for r in results if r.item.kind == kind]
        if mine or kind != "harmless":
            parts.append(f"{verb} {sum(r.right for r in mine)} of {len(mine)}")
    return ", ".join(parts)
