"""How to believe a run: what was checked, by which rules, on what machine, and the command that does it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kopt.meta import Meta
from kopt.records import Evidence, Outcome, Verdict
from kopt.report.rows import Rows
from kopt.run import Entry, Run
from kopt.text import line

ASKED = {
    "policy": "the source keeps the contract and asks for nothing forbidden",
    "trace": "every launch was compiled for the target, and its machine code read",
    "numerics": "results agree with the reference on the CPU's interpreter",
    "predict": "the time was modelled from traced and counted work",
    "measure": "the judge held inputs, answer and clock on a GPU",
}
GIB = 1 << 30


class Check(NamedTuple):
    """One stage of the best submission's evaluation."""

    stage: str
    outcome: str
    asked: str
    found: str


class Again(NamedTuple):
    """One submission that the finale measured again."""

    n: int
    against: str
    """"the baseline", or the submission that it met."""
    status: str
    screened: float | None
    score: float | None
    quads: int
    """Behind each shape, at least."""
    processes: int
    found: str


class Belief(NamedTuple):
    """`state` is one sentence for the headline."""

    state: str
    checks: list[Check]
    again: list[Again]
    outcome: str
    """Of the finale."""
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    walls: list[tuple[str, str]]
    """Around the workers on the CPU."""
    runner_walls: list[tuple[str, str]]
    """Around the runner on the GPU, when the best one was screened."""
    facts: list[tuple[str, str]]
    command: str
    caveats: list[str]


def believe(run: Run, rows: Rows, best: Verdict | None) -> Belief:
    """`best` is the verdict of the run's best submission."""
    meta = run.meta
    return Belief(
        state(run, rows, best), [_check(stage) for stage in best.stages] if best else [], _again(run),
        line(run.finale.reason, 160) if run.finale else "", machine(meta.machine),
        _versions(meta), _walls(meta.walls), _walls(_of_runner(best)),
        [
            ("run", meta.id),
            ("started", f"{datetime.fromtimestamp(meta.created, UTC):%Y-%m-%d %H:%M} UTC"),
            ("task", f"{meta.task}, {meta.task_sha[:12]}"),
            ("proposer", line(meta.proposer, 120)),
            ("seed", str(meta.seed)),
            ("evaluator", ", ".join(f"version {v}" for v in _evaluators(run)) or f"version {meta.evaluator}"),
        ],
        command(meta), _caveats(run, rows, best),
    )  # fmt: skip


def _walls(walls: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(line(str(name), 40), line(str(state), 120)) for name, state in walls.items()]


def _of_runner(best: Verdict | None) -> Mapping[str, Any]:
    measured = next((s for s in best.stages if s.stage == "measure"), None) if best else None
    found = measured.facts.get("walls") if measured else None
    return found if isinstance(found, Mapping) else {}


def state(run: Run, rows: Rows, best: Verdict | None) -> str:
    """What is behind the headline's number."""
    if rows.best is None:
        return "No submission has a score, so there is nothing to verify."
    if best is None:
        return (
            f"{(rows.evidence or '').capitalize()}, says another version of kopt, whose verdict this one cannot read."
        )
    outcomes = {stage.stage: stage.outcome for stage in best.stages}
    numerics = outcomes.get("numerics", Outcome.SKIPPED)
    checked = {
        Outcome.PASSED: "its results agree with the reference in the interpreter",
        Outcome.UNAVAILABLE: "its results could not be checked here",
        Outcome.SKIPPED: "its results were not checked",
        Outcome.FAILED: "its results are wrong",
    }[numerics]
    if best.evidence is Evidence.MEASURED:
        # No time counts whose outputs were not compared: the interpreter's word is not needed then.
        checked = "its results agree with the reference on the GPU, at full size"
        if numerics is Outcome.PASSED:
            checked += ", and in the interpreter"
        if rows.verified:
            return (
                f"Measured on a GPU by the judge's clock, and verified: measured again at the end in fresh processes "
                f"with fresh inputs, {rows.behind} a shape; {checked}."
            )
        why = f"not verified at the end ({line(run.finale.reason, 100)})" if run.finale else "not verified at the end"
        return f"Measured on a GPU by the judge's clock, {why}; {checked}."
    return f"Modelled: no GPU has run it; {checked}."


def machine(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fingerprint in words; what it does not say is left out."""
    rows: list[tuple[str, str]] = []
    gpus = found.get("gpus")
    if isinstance(gpus, list):
        rows += [("GPU", _gpu(gpu)) for gpu in gpus if isinstance(gpu, Mapping)] or [("GPU", "none")]
    for key, name in (("driver", "driver"), ("cpu", "CPU"), ("cores", "cores")):
        if found.get(key):
            rows.append((name, line(str(found[key]), 120)))
    if isinstance(size := found.get("memory_bytes"), int | float):
        rows.append(("memory", f"{size / GIB:,.0f} GiB"))
    if found.get("os"):
        rows.append(("system", line(f"{found['os']} {found.get('kernel', '')}", 120)))
    return rows


def command(meta: Meta) -> str:
    """What starts the same run again. A model's replies are not reproducible; its submissions can be judged again."""
    if meta.proposer != "search":
        return f"kopt run {shlex.quote(meta.task)} --replay {shlex.quote(meta.id)}"
    parts = ["kopt", "run", meta.task, "--target", meta.target, "--seed", str(meta.seed)]
    parts += ["--from", f"submissions/{meta.id}/sources/{meta.start}"] if meta.start else []
    parts += ["--shapes", "shapes.toml"] if meta.shapes else []
    for name in ("submissions", "trials", "minutes", "until"):
        value = getattr(meta.budget, name)
        parts += [f"--{name}", f"{value:g}"] if value is not None else []
    return shlex.join(parts)


def power_caps(found: Mapping[str, Any]) -> tuple[float, ...]:
    """Power limits in watts of the GPUs in a fingerprint."""
    gpus = found.get("gpus")
    caps = [gpu.get("power_limit_w") for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    return tuple(sorted({float(cap) for cap in caps if isinstance(cap, int | float)}))


def _before(entry: Entry) -> float | None:
    return entry.score if entry.screened is None else entry.screened


def _again(run: Run) -> list[Again]:
    return [
        Again(
            c.submission, f"#{c.against}" if c.against is not None else "the baseline", str(c.status),
            _before(run.entry(c.submission)), c.score, c.fewest or c.batches, c.processes,
            "; ".join(line(str(f), 200) for f in c.findings),
        )
        for c in run.contests
    ]  # fmt: skip


def _gpu(gpu: Mapping[str, Any]) -> str:
    words = [line(str(gpu.get("name", "?")), 60)]
    if isinstance(size := gpu.get("memory_bytes"), int | float):
        words.append(f"{size / GIB:,.0f} GiB")
    if isinstance(cap := gpu.get("power_limit_w"), int | float):
        words.append(f"power limit {cap:g} W")
    return ", ".join(words)


def _versions(meta: Meta) -> list[tuple[str, str]]:
    found = {"kopt": meta.kopt, **{k: str(v) for k, v in meta.toolchain.model_dump().items() if v}}
    packages = meta.machine.get("packages")
    if isinstance(packages, Mapping):
        found.update({str(k): str(v) for k, v in packages.items() if k not in found})
    return [(line(k, 40), line(v, 60)) for k, v in found.items()]


def _check(stage: Any) -> Check:
    found = []
    if isinstance(problems := stage.facts.get("problems"), int):
        found.append(f"{problems} problems")
    found += [f"warning, {line(f.rule, 40)}: {line(str(f), 200)}" for f in stage.findings if not f.status]
    return Check(stage.stage, str(stage.outcome), ASKED.get(stage.stage, ""), "; ".join(found))


def _evaluators(run: Run) -> list[int]:
    return sorted({entry.evaluator for entry in run if entry.evaluator is not None})


def _caveats(run: Run, rows: Rows, best: Verdict | None) -> list[str]:
    found = []
    if best is not None and best.evidence is Evidence.MODELLED:
        if not all(p.calibrated for p in best.predictions):
            found.append("The model's constants are not fitted to measurements of this GPU.")
        found.append("Models of this kind are 10 to 35 % off in absolute time; they rank better than they predict.")
    if best is not None and best.evidence is Evidence.MEASURED:
        found.append(
            "Times are taken in quads, two batches of the kernel between two of the baseline, so that a drifting clock "
            "favours neither. The run picks its best by few quads, and the best of many such numbers is a little too "
            "good: what is verified was measured once more, with more of them."
        )
        found.append("The interval of a score has the geometric means of its shapes' intervals as its ends.")
    if best is not None and any(stage.outcome is Outcome.UNAVAILABLE for stage in best.stages):
        found.append("What could not be checked here is marked unavailable, which is not the same as passed.")
    if len(versions := _evaluators(run)) > 1:
        found.append(f"Verdicts were given by several versions of the rules ({', '.join(map(str, versions))}).")
    if any(row.evidence not in (None, rows.evidence) for row in rows.submissions):
        found.append(
            "Some submissions have scores of another kind of evidence; they are shown hollow and never compared."
        )
    found += [f"kopt itself failed during this run: {line(error, 200)}" for error in rows.errors[-3:]]
    return found
