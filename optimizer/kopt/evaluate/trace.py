"""Stage "trace": what the candidate launches on the target, compiled for it without one.

An untrusted child runs the entry on a stub device and hands over IR and launches; clean children compile the IR; what
is decided here rests on their SASS. Then come the rules that a real launch would enforce, and those of provenance.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kopt.disk import writing
from kopt.evaluate import launches as launch_rules
from kopt.evaluate import provenance, traced
from kopt.evaluate.compilation import Compiled, Compiler
from kopt.evaluate.hearsay import LARGEST, Nonsense
from kopt.evaluate.recipe import Recipe, recipe
from kopt.evaluate.sass import SOURCE
from kopt.evaluate.stage import Case, Earlier
from kopt.evaluate.steering import Steering
from kopt.evaluate.workers import Reply, Workers
from kopt.records import Finding, KernelFacts, LaunchFacts, Outcome, Shape, StageResult, Status, digest

DEADLINE = 30.0
"""Seconds for importing the candidate and calling its entry; compilations are not charged to it."""
REPEATS = 3
"""Calls after the first, of which the last stands for the steady state and the median is the host time."""
KERNELS = 256
"""Kernels that one candidate may have compiled."""
_JOB = "kopt.evaluate.worker.trace:run"
_COMPILER_ERRORS = frozenset(
    "CompilationError CompileTimeAssertionFailure UnsupportedLanguageConstruct PTXASError BackendError "
    "OutOfResources AutotunerError".split()
)


class Eager(NamedTuple):
    """What a call does with ATen operations that move something."""

    operations: int = 0
    nbytes: int = 0
    """Read and written, if nothing of it stays in a cache."""


@dataclass
class _Facts:
    """What is known of one case, filled as it is read."""

    findings: list[Finding] = field(default_factory=list)
    kernels: dict[str, KernelFacts] = field(default_factory=dict)
    calls: dict[str, tuple[LaunchFacts, ...]] = field(default_factory=dict)
    aten: dict[str, dict[str, int]] = field(default_factory=dict)
    eager: dict[str, Eager] = field(default_factory=dict)
    host_us: dict[str, float] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    recipes: dict[str, Recipe] = field(default_factory=dict)


class Trace:
    """Thread-safe. `store` is a folder out of reach of untrusted processes: compilations are kept there."""

    name = "trace"

    def __init__(
        self, workers: Workers, store: Path, *, deadline: float = DEADLINE, steering: Steering | None = None
    ) -> None:
        self._workers = workers
        self._steering = steering or Steering(workers, store)
        self._store = store
        self._deadline = deadline
        self._lock = threading.Lock()
        self._compilers: Compiler | None = None
        self._probed: dict[str, Mapping[str, Any]] = {}

    @property
    def compiler(self) -> Compiler:
        """Made when first needed: it starts the worker processes."""
        with self._lock:
            if self._compilers is None:
                self._compilers = Compiler(self._workers, self._store)
            return self._compilers

    def close(self) -> None:
        """Give up what is being compiled."""
        with self._lock:
            if self._compilers is not None:
                self._compilers.close()

    def run(self, case: Case, earlier: Earlier) -> StageResult:
        started = time.perf_counter()
        self.compiler.prepare(case.target.arch)
        facts = _Facts()
        self._trace(case, facts)
        self.compiler.prepare(case.target.arch)  # for the next case: this one may have used up what was ready
        failed = any(f.status for f in facts.findings)
        return StageResult(
            stage=self.name,
            outcome=Outcome.FAILED if failed else Outcome.PASSED,
            facts={
                "kernels": {
                    id: kernel.model_dump(mode="json", exclude={"lines", "hot_lines"})
                    for id, kernel in facts.kernels.items()
                },
                "calls": {s: [launch.model_dump(mode="json") for launch in c] for s, c in facts.calls.items()},
                "aten": facts.aten,
                "host_us": facts.host_us,
                "probes": facts.probes,
                "notes": facts.notes,
            },
            findings=_gathered(facts.findings),
            seconds=time.perf_counter() - started,
            artifacts={
                "kernels": facts.kernels,
                "calls": facts.calls,
                "eager": facts.eager,
                "recipes": facts.recipes,
                "cubins": {sha: self.compiler.cubin(sha) for r in facts.recipes.values() for sha in r.cubins},
            },
        )

    def _trace(self, case: Case, facts: _Facts) -> None:
        key = digest(case.source) + case.task.sha + case.target.key
        probes = self._probed.get(key)
        reply = self._work(case, wait=False, probe=probes is None)
        if reply.ok and reply.value.get("again"):
            reply = self._work(case, wait=True, probe=probes is None)
        if not reply.ok:
            facts.findings.append(_unfinished(reply))
            return
        try:
            report = traced.checked(reply.value)
        except Nonsense as why:
            facts.findings.append(_interfered(str(why)))
            return
        if any(len(seen["tensors"]) != len(case.task.tensors) for seen in report["shapes"].values()):
            facts.findings.append(_interfered("it has other tensors than the task"))
            return
        facts.notes.extend(report["notes"])
        raised = report["error"]
        if raised:
            facts.findings.append(_raised(raised))
        self._read(case, report, facts)
        if raised:
            return
        facts.findings.extend(_swallowed(report["swallowed"]))
        if probes is None:
            probes = report["probes"]
            if not probes:
                facts.findings.append(_interfered("it lacks the probes"))
            elif not any(f.status for f in facts.findings):
                self._probed[key] = probes
        facts.probes = dict(probes)
        facts.findings.extend(provenance.probe_findings(probes))

    def _work(self, case: Case, *, wait: bool, probe: bool) -> Reply:
        task = case.task
        payload = {
            "source": SOURCE,
            "entry": task.entry,
            "target": case.target.key,
            "parameters": dict(case.parameters),
            "wait": wait,
            "probe": probe,
            "repeats": REPEATS,
        }
        compiler, arch = self.compiler, case.target.arch
        asked: list[str] = []

        def answer(question: dict[str, Any]) -> dict[str, Any]:
            # An untrusted process asks; nothing that it asks may raise here.
            if "compile" in question:
                if len(asked) >= KERNELS:
                    return {"id": compiler.refuse(f"more than {KERNELS} kernels were compiled")}
                asked.append(compiler.submit(question, arch))
                return {"id": asked[-1]}
            ids = question.get("results")
            known = [id for id in ids[:KERNELS] if isinstance(id, str)] if isinstance(ids, list) else []
            return {"results": {id: _told(compiler.result(id)) for id in known}}

        with writing(), tempfile.TemporaryDirectory(prefix="kopt-trace-") as name:
            folder = Path(name)
            (folder / SOURCE).write_text(case.source, encoding="utf-8", errors="replace")
            payload["shapes"] = [self._shape(case, shape, folder) for shape in task.timing]
            return self._workers.run("compile", _JOB, payload, folder=folder, deadline=self._deadline, on_ask=answer)

    def _shape(self, case: Case, shape: Shape, folder: Path) -> dict[str, Any]:
        files = self._steering.put(folder, case.task, shape, case.seed)
        return {
            "name": shape.name,
            "tensors": [
                {"sizes": t.sizes(shape.dims), "dtype": t.dtype, "role": t.role, "file": files.get(t.name)}
                for t in case.task.tensors
            ],
        }

    def _read(self, case: Case, report: Mapping[str, Any], facts: _Facts) -> None:
        """Turn events into launches and kernels, and check them against the rules."""
        aten: dict[str, dict[str, int]] = {}
        first: dict[str, list[LaunchFacts]] = {}
        for shape in case.task.timing:
            seen = report["shapes"].get(shape.name)
            if seen is None:
                continue
            # A first call may do more, such as capture a graph; it is not what repeats.
            first[shape.name] = self._launches(case, shape.name, seen["first"], facts)
            facts.calls[shape.name] = tuple(self._launches(case, shape.name, seen["steady"], facts))
            facts.aten[shape.name] = dict(Counter(e["aten"] for e in seen["steady"] if "aten" in e))
            aten[shape.name] = traced.operations([*seen["first"], *seen["steady"]])
            moving = [e["bytes"] for e in seen["steady"] if "aten" in e and not provenance.FREE.match(e["aten"])]
            facts.eager[shape.name] = Eager(len(moving), sum(moving))
            ids = {e["launch"] for e in seen["steady"] if "launch" in e}
            facts.recipes[shape.name] = recipe(
                shape.name, seen, {id: self.compiler.result(id) for id in ids}, report["notes"]
            )
            if seen["host_us"] is not None:
                facts.host_us[shape.name] = round(seen["host_us"], 1)
        if report["error"] is None:
            facts.findings.extend(provenance.findings(case.task, first, facts.calls, facts.kernels, aten))

    def _launches(
        self, case: Case, shape: str, events: Sequence[Mapping[str, Any]], facts: _Facts
    ) -> list[LaunchFacts]:
        found = []
        for event in events:
            if "launch" not in event:
                continue
            compiled = self.compiler.result(event["launch"])
            if compiled.error:
                _once(facts.findings, _refused(compiled, shape))
            else:
                if compiled.cubin not in facts.kernels:
                    facts.kernels[compiled.cubin] = compiled.on(case.target, case.target.arch)
                for rule, message, status in launch_rules.violations(event, compiled, case.target):
                    _once(facts.findings, Finding(rule=rule, message=message, status=status, shape=shape))
            x, y, z = event["grid"]
            found.append(LaunchFacts(kernel=compiled.cubin, name=event["name"], grid=(x, y, z)))
        return found


def _told(compiled: Compiled) -> dict[str, Any]:
    """What a worker may know of a compilation."""
    if compiled.error:
        return {"error": {"kind": compiled.kind, "message": compiled.error}}
    facts = {key: compiled.facts[key] for key in ("registers", "spill_stores", "spill_loads")}
    return {"metadata": dict(compiled.metadata), "facts": facts}


def _interfered(why: str) -> Finding:
    message = f"the worker's report makes no sense ({why}): the candidate interfered with it"
    return Finding(rule="trace.report", message=message, status=Status.REJECTED)


def _unfinished(reply: Reply) -> Finding:
    """The child did not get to report: a deadline, memory, a crash, or a file that cannot be imported."""
    line, message = reply.value.get("line"), reply.value.get("message")
    place = f"line {line}" if isinstance(line, int) and 0 < line < LARGEST else ""
    message = (message if isinstance(message, str) and message else reply.error)[:400]
    if reply.outcome == "timeout":
        return Finding(rule="trace.timeout", message=message, status=Status.TIMEOUT, place=place)
    status = Status.COMPILE_ERROR if reply.value.get("kind") == "syntax" else Status.CRASHED
    return Finding(rule=f"trace.{reply.outcome}", message=message, status=status, place=place)


def _raised(error: Mapping[str, str]) -> Finding:
    compiler = error["type"] in _COMPILER_ERRORS
    return Finding(
        rule="trace.compile" if compiler else "trace.exception",
        message=error["message"] if compiler else f"{error['type']}: {error['message']}",
        status=Status.COMPILE_ERROR if compiler else Status.CRASHED,
        shape=error["shape"],
        place=error["place"],
    )


def _refused(compiled: Compiled, shape: str) -> Finding:
    place = f"line {compiled.line}" if compiled.line else ""
    return Finding(rule="trace.compile", message=compiled.error, status=Status.COMPILE_ERROR, shape=shape, place=place)


def _swallowed(errors: Sequence[Mapping[str, str]]) -> Iterator[Finding]:
    for error in errors:
        yield Finding(
            rule="trace.fallback",
            message=f"fallback traced: the candidate caught {error['type']}: {error['message']}",
            place=error["place"],
        )


def _once(findings: list[Finding], finding: Finding) -> None:
    if finding not in findings:
        findings.append(finding)


def _gathered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding for what is the same at several shapes, told of the first of them."""
    shapes: dict[Finding, list[str]] = {}
    for finding in findings:
        shapes.setdefault(finding.model_copy(update={"shape": ""}), []).append(finding.shape)
    gathered = []
    for finding, where in shapes.items():
        others = len(set(where)) - 1
        more = f" (and at {others} other shape{'s' if others > 1 else ''})" if others else ""
        gathered.append(finding.model_copy(update={"shape": where[0], "message": finding.message + more}))
    return tuple(gathered)
