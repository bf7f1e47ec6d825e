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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from kopt.errors import HarnessError
from kopt.evaluate.answers import Answers, Graded, Prepared, Problem, problems
from kopt.evaluate.hearsay import Nonsense, items, text, understood
from kopt.evaluate.provenance import LIBRARY, MOVES
from kopt.evaluate.stage import Case, Earlier, passed
from kopt.evaluate.tensors import Layout, layout, nbytes
from kopt.evaluate.worker.candidate import FILE
from kopt.machine.products import Product
from kopt.records import Finding, Outcome, Parameters, StageResult, Status, Task

if TYPE_CHECKING:
    from kopt.evaluate.workers import Reply, Workers

DEADLINE = 90.0
"""Seconds for all calls of a candidate. A good kernel takes three on an idle core; one with tiny tiles, eight."""

_SHOWN = 8
"""Findings of one stage; more of the same help nobody."""
_OPERATIONS = 1000
"""Names of kernels, and of ATen operations, of one call that are read."""
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
    ran: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()
    """Names of the kernels and of the ATen operations that gave the results."""


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
        if outcome is Outcome.PASSED:
            found = list(_elsewhere(checked, earlier))
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
        try:
            folder = Path(tempfile.mkdtemp(prefix="numerics-", dir=self._store))
        except OSError as error:
            raise HarnessError(f"{self._store}: no folder can be made: {error.strerror}") from error
        try:
            (folder / FILE).write_text(source, encoding="utf-8")
            for index, data in enumerate(prepared.inputs):
                (folder / f"{index}.in").write_bytes(data)
            reply = self._workers.run(
                "interpret",
                "kopt.evaluate.worker.execute:run",
                {
                    "file": FILE,
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
        except OSError as error:
            raise HarnessError(f"{folder}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        first = {index: data for index, data in outputs.items() if index < len(prepared.problems)}
        graded = self._answers.grade(task, prepared, first)
        findings = {index: list(grade.findings) for index, grade in graded.items()}
        why = reply.value.get("unavailable")
        unavailable = why[:300] if isinstance(why, str) else ""
        for problem, finding in () if unavailable else _conduct(task, prepared, groups, reply, outputs, at):
            findings.setdefault(problem, []).append(finding)
        found = {index: tuple(found) for index, found in findings.items() if found}
        seen = [] if found or unavailable else list(_account(reply.value, _calls(groups)).values())
        ran = frozenset(name for call in seen for name in call.launches)
        computed = frozenset(name for call in seen for name in call.aten)
        return Checked(prepared.problems, graded, found, unavailable, ran, computed)


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


def _calls(groups: Sequence[Group]) -> list[Call]:
    return [call for group in groups for call in group["calls"]]


def _elsewhere(checked: Checked, earlier: Earlier) -> Iterator[Finding]:
    """What is done at the timing shapes, as traced, and was not checked; or was checked and is not done there.

    A kernel may well have other ways for other shapes. But then its right results say nothing about those.
    """
    if not passed(earlier, "trace"):
        return
    facts = earlier["trace"]
    timed = {launch.name for launches in facts.artifacts["calls"].values() for launch in launches if launch.programs}
    if others := sorted(timed - checked.ran):
        message = f"{', '.join(others)}: launched at timing shapes alone; what was checked says nothing about that"
        yield Finding(rule="numerics.elsewhere", message=message)
    known = {name for operations in facts.facts["aten"].values() for name in operations}
    if others := sorted(name for name in checked.computed - known if not MOVES.match(name)):
        names = ", ".join(f"aten::{name}" for name in others)
        yield Finding(
            rule="numerics.elsewhere", message=f"the host computes with {names}, which it does at no timing shape"
        )


def _conduct(
    task: Task,
    prepared: Prepared,
    groups: Sequence[Group],
    reply: Reply,
    outputs: Mapping[int, bytes],
    at: int | None,
) -> Iterator[tuple[int, Finding]]:
    """What is wrong with how the candidate ran, beside its results: (problem, finding)."""
    calls = _calls(groups)
    if not reply.ok:
        problem = next((call["problem"] for call in calls if call["call"] == at), None)
        yield problem or 0, _failure(reply, None if problem is None else prepared.problems[problem])
        return
    try:
        seen = _account(reply.value, calls)
    except Nonsense as why:
        message = f"the worker's report makes no sense ({why}): the candidate interfered with it"
        yield 0, Finding(rule="numerics.report", message=message, status=Status.REJECTED)
        return
    for call in calls:
        index = call["problem"]
        if call["call"] not in outputs:
            yield index, _wrong(prepared, index, "outputs", "the result is missing or of another size")
        for rule, message in _broken(task, prepared.inputs[index], seen[call["call"]]):
            yield index, _wrong(prepared, index, rule, message)
    for group in groups:
        index, again = group["calls"][-1]["problem"], group["calls"][-1]["call"]
        if index in outputs and again in outputs and outputs[index] != outputs[again]:
            message = "the same inputs gave other bits in a second call: the result depends on what was there before"
            yield index, _wrong(prepared, index, "determinism", message)


class _Seen(NamedTuple):
    """What the child saw of one call."""

    inputs: str
    """SHA-256 of all of them afterwards."""
    outside: str
    launches: list[str]
    """Names of the kernels that ran."""
    aten: list[str]


def _account(value: Mapping[str, Any], calls: Sequence[Call]) -> dict[int, _Seen]:
    """By call. Nonsense where the report is not of the form that `worker/execute.py` gives it."""
    with understood():
        found = {call["call"]: value["calls"][str(call["call"])] for call in calls}
        return {
            number: _Seen(
                text(seen["inputs"]),
                text(seen["outside"], 100),
                [text(name, 200) for name in items(seen["launches"], _OPERATIONS)],
                [text(name, 100) for name in items(seen["aten"], _OPERATIONS)],
            )
            for number, seen in found.items()
        }


def _broken(task: Task, inputs: bytes, call: _Seen) -> Iterator[tuple[str, str]]:
    """Rules that a call breaks, by what the child saw of it: (rule, message)."""
    if call.inputs != hashlib.sha256(inputs).hexdigest():
        yield "inputs", "the call changed its inputs"
    if call.outside:
        yield "outside", f"the call wrote outside {call.outside}, beyond its first or last element"
    # A candidate can tell the interpreter from a GPU. Here as there, kernels have to do the work.
    if not call.launches:
        yield "launch", "no kernel was launched: the result comes from elsewhere"
    used = sorted(name for name in call.aten if LIBRARY.match(name))
    if used and not task.provenance.library:
        yield "library", f"the host called {', '.join('aten::' + name for name in used)}"


def _failure(reply: Reply, problem: Problem | None) -> Finding:
    """Why the child did not end as it should."""
    named = reply.value.get("kind")
    kind = named if isinstance(named, str) else ""
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


def _wrong(prepared: Prepared, problem: int, rule: str, message: str) -> Finding:
    where = prepared.problems[problem]
    status = Status.REJECTED if rule in ("launch", "library") else Status.WRONG
    return Finding(rule=f"numerics.{rule}", message=message, status=status, shape=where.shape.name, place=where.family)


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
