"""Stage "numerics": the candidate in Triton's interpreter against the task's reference, without a GPU.

Every check_cpu shape with each of its input families, in one untrusted child; another child, which never sees the
candidate, compares. Beyond the result itself: inputs stay untouched, nothing is written outside the outputs, the same
problem gives the same bits again, and a second problem in the same buffers gives its own result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from kopt.evaluate.answers import Answers, Graded, Prepared, Problem, problems
from kopt.evaluate.stage import Case, Earlier
from kopt.evaluate.tensors import Layout, layout, nbytes
from kopt.machine.products import Product
from kopt.records import Finding, Outcome, Parameters, StageResult, Status, Task

if TYPE_CHECKING:
    from kopt.evaluate.workers import Reply, Workers

DEADLINE = 90.0
"""Seconds for all calls of a candidate. A good kernel takes three on an idle core; one with tiny tiles, eight."""

_SHOWN = 8
"""Findings of one stage; more of the same help nobody."""
_FILE = "candidate.py"
_FILLS = ("random", "keep", "nan")
_IMPORT = {"syntax": Status.COMPILE_ERROR, "import": Status.CRASHED, "entry": Status.REJECTED}
"""Kinds of CandidateError and what they amount to."""


class Call(TypedDict):
    """One call of the entry. Numbers below the count of problems are first calls, and the problem's own."""

    call: int
    problem: int
    fill: str


class Group(TypedDict):
    """Calls that share their buffers."""

    inputs: list[Layout]
    outputs: list[Layout]
    calls: list[Call]


@dataclass(frozen=True)
class Checked:
    """What became of each problem, by its index; one without an entry was not reached."""

    problems: tuple[Problem, ...]
    graded: Mapping[int, Graded]
    findings: Mapping[int, tuple[Finding, ...]]
    unavailable: str = ""
    """Why the candidate cannot be checked here, if so."""


class Numerics:
    """The stage. Thread-safe."""

    name = "numerics"

    def __init__(self, workers: Workers, store: Path, deadline: float = DEADLINE) -> None:
        """`store` is a folder for the jobs' own folders."""
        self._workers = workers
        self._store = store
        self._deadline = deadline
        self._answers = Answers(workers, store)

    def run(self, case: Case, earlier: Earlier) -> StageResult:
        started = time.perf_counter()
        checked = self.check(case.task, case.source, case.parameters, case.seed, case.target)
        found = [finding for index in sorted(checked.findings) for finding in checked.findings[index]]
        outcome = Outcome.FAILED if found else Outcome.PASSED
        if not found and checked.unavailable:
            outcome = Outcome.UNAVAILABLE
            found = [Finding(rule="numerics.unavailable", message=f"not checked: {checked.unavailable}")]
        if len(found) > _SHOWN:
            more = Finding(rule="numerics.more", message=f"and {len(found) - _SHOWN} more like these")
            found = [*found[:_SHOWN], more]
        return StageResult(
            stage=self.name,
            outcome=outcome,
            facts={"problems": len(checked.problems), "worst": _worst(checked)},
            findings=tuple(found),
            seconds=time.perf_counter() - started,
        )

    def check(
        self,
        task: Task,
        source: str,
        parameters: Parameters,
        seed: int,
        target: Product,
        chosen: Sequence[Problem] | None = None,
    ) -> Checked:
        """Run `chosen`, or all, and compare. UsageError when a hook of the task fails; a bad candidate is findings."""
        prepared = self._answers.prepare(task, seed, problems(task) if chosen is None else chosen)
        groups = plan(task, prepared.problems)
        folder = Path(tempfile.mkdtemp(prefix="numerics-", dir=self._store))
        try:
            (folder / _FILE).write_text(source, encoding="utf-8")
            for index, data in enumerate(prepared.inputs):
                (folder / f"{index}.in").write_bytes(data)
            reply = self._workers.run(
                "interpret",
                "kopt.evaluate.worker.execute:run",
                {
                    "file": _FILE,
                    "entry": task.entry,
                    "parameters": dict(parameters),
                    "target": asdict(target),
                    "groups": groups,
                },
                folder=folder,
                deadline=self._deadline,
            )
            outputs = _outputs(folder, groups)
            at = _at(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if why := reply.value.get("unavailable"):
            return Checked(prepared.problems, {}, {}, unavailable=str(why)[:300])
        first = {index: data for index, data in outputs.items() if index < len(prepared.problems)}
        graded = self._answers.grade(task, prepared, first)
        findings = {index: list(grade.findings) for index, grade in graded.items()}
        for problem, finding in _conduct(prepared, groups, reply, outputs, at):
            findings.setdefault(problem, []).append(finding)
        return Checked(prepared.problems, graded, {index: tuple(found) for index, found in findings.items()})


def plan(task: Task, chosen: Sequence[Problem]) -> list[Group]:
    """What the child does: for each shape its problems in turn through the same buffers, then the first once more."""
    groups: list[Group] = []
    for number, shape in enumerate({p.shape.name: p.shape for p in chosen}.values()):
        members = [index for index, p in enumerate(chosen) if p.shape.name == shape.name]
        calls = [Call(call=index, problem=index, fill=_FILLS[turn % len(_FILLS)]) for turn, index in enumerate(members)]
        calls.append(Call(call=len(chosen) + number, problem=members[0], fill="nan"))
        groups.append(
            Group(inputs=layout(task.inputs, shape.dims), outputs=layout(task.outputs, shape.dims), calls=calls)
        )
    return groups


def _conduct(
    prepared: Prepared, groups: Sequence[Group], reply: Reply, outputs: Mapping[int, bytes], at: int | None
) -> list[tuple[int, Finding]]:
    """What is wrong with how the candidate ran, beside its results: (problem, finding)."""
    calls = [call for group in groups for call in group["calls"]]
    if not reply.ok:
        problem = next((call["problem"] for call in calls if call["call"] == at), None)
        return [(problem or 0, _failure(reply, None if problem is None else prepared.problems[problem]))]
    found = []
    after, outside = reply.value.get("inputs"), reply.value.get("outside")
    for call in calls:
        where = prepared.problems[call["problem"]]
        before = hashlib.sha256(prepared.inputs[call["problem"]]).hexdigest()
        if call["call"] not in outputs:
            found.append(
                (call["problem"], _wrong(where, "numerics.outputs", "the result is missing or of another size"))
            )
        elif not isinstance(after, dict) or after.get(str(call["call"])) != before:
            found.append((call["problem"], _wrong(where, "numerics.inputs", "the call changed its inputs")))
        if isinstance(outside, dict) and (name := outside.get(str(call["call"]))):
            message = f"the call wrote outside {name}, beyond its first or last element"
            found.append((call["problem"], _wrong(where, "numerics.outside", message)))
    for group in groups:
        again = group["calls"][-1]
        first, second = outputs.get(again["problem"]), outputs.get(again["call"])
        if first is not None and second is not None and first != second:
            where = prepared.problems[again["problem"]]
            message = "the same inputs gave other bits in a second call: the result depends on what was there before"
            found.append((again["problem"], _wrong(where, "numerics.determinism", message)))
    return found


def _failure(reply: Reply, problem: Problem | None) -> Finding:
    """Why the child did not end as it should."""
    kind = str(reply.value.get("kind", ""))
    rule, status = "numerics.crash", Status.CRASHED
    if kind in _IMPORT:
        rule, status = "numerics.import", _IMPORT[kind]
    elif reply.outcome == "timeout":
        rule, status = "numerics.timeout", Status.TIMEOUT
    doing = "" if kind else " in the interpreter" if problem else " while it was imported"
    return Finding(
        rule=rule,
        message=f"{reply.error}{doing}",
        status=status,
        shape=problem.shape.name if problem else "",
        place=problem.family if problem else "",
    )


def _wrong(problem: Problem, rule: str, message: str) -> Finding:
    return Finding(rule=rule, message=message, status=Status.WRONG, shape=problem.shape.name, place=problem.family)


def _outputs(folder: Path, groups: Sequence[Group]) -> dict[int, bytes]:
    """What the child left for each call, where it is a plain file of the right size."""
    found = {}
    for group in groups:
        size = nbytes(group["outputs"])
        for call in group["calls"]:
            data = _read(folder / f"{call['call']}.out", size)
            if data is not None and len(data) == size:
                found[call["call"]] = data
    return found


def _read(path: Path, limit: int) -> bytes | None:
    """A plain file's bytes, at most limit + 1. The child may have put a link, a pipe or a giant in its place."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(fd)


def _at(folder: Path) -> int | None:
    """The call in progress when the child ended."""
    text = (_read(folder / "at", 20) or b"").decode(errors="replace")
    return int(text) if text.isdecimal() else None


def _worst(checked: Checked) -> dict[str, dict[str, float]]:
    """By shape, the largest relative RMS error and the largest fraction of a bound."""
    worst: dict[str, dict[str, float]] = {}
    for index, grade in checked.graded.items():
        shape = worst.setdefault(checked.problems[index].shape.name, {})
        for key, value in (("relative_rms", grade.relative_rms), ("of_bound", grade.of_bound)):
            if value is not None:
                shape[key] = max(value, shape.get(key, 0.0))
    return worst
