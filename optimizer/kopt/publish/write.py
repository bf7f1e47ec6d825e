"""Publishing: choose, verify, write. What is not measured and verified is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import kopt
from kopt.errors import HarnessError, MachineError, UsageError
from kopt.evaluate import VERSION
from kopt.judge.plan import HEADLINE, PROMOTION, Plan, Rival
from kopt.judge.statistics import promotes
from kopt.machine.products import product
from kopt.meta import write_whole
from kopt.publish import choose
from kopt.publish.choose import Verified
from kopt.publish.compose import compose
from kopt.publish.record import FOLDER, Published, sha256
from kopt.records import Contest, Evidence, Measurement, Parameters, Task
from kopt.run import Entry, Run
from kopt.text import behind

SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+ ()-]+)")

Measure = Callable[[str, Parameters, Plan, Rival | None], Contest]
"""Measures a source here and now, on a GPU of the run's product."""


class Paths(NamedTuple):
    kernel: Path
    record: Path


def publish(
    run: Run,
    n: int,
    task: Task,
    root: Path,
    *,
    measure: Measure | None = None,
    modelled: bool = False,
    license: str = "",
    force: bool = False,
) -> tuple[Paths, Published]:
    """Write kernels/<task>/published/<product>.py and .json in the workspace `root`.

    Without `measure`, what the run's finale verified is published as it stands; with it, a submission that no finale
    has seen is measured now, and parameters by shape are tried. UsageError for what may not be published, MachineError
    for what would first have to be measured.
    """
    entry = choose.publishable(run, n, modelled=modelled)
    if task.sha != run.meta.task_sha:
        raise UsageError(f"task {task.name} has changed since run {run.id}: its numbers say nothing about it any more")
    if entry.evidence is Evidence.MODELLED:
        return _written(run, entry, task, root, Verified(entry.score or 0.0, (), 0, 0), {}, license, force)
    found = choose.verified(run, n)
    own = dict(entry.submission.parameters)
    if found is None and measure is None:
        name = product(run.meta.target).name
        raise MachineError(
            f"{run.id}/{n} was measured while others were chosen by the same numbers, and not again: publish it where "
            f"there is an {name}, or let kopt resume {run.id} end with its finale there"
        )
    if found is None and measure is not None:
        found = _measured(measure(run.source(n), own, HEADLINE, None), f"{run.id}/{n}")
    assert found is not None
    shapes: Mapping[str, Parameters] = {}
    if measure is not None and (candidates := choose.by_shape(run, n, task)):
        text = compose(run.source(n), task, own, candidates, "")
        # By shape it has to earn its place, against the one set of parameters it would replace.
        duel = None
        # Two kernels beside the judge may be more than a device has room for.
        with suppress(HarnessError, MachineError):
            duel = measure(text, {}, PROMOTION, Rival(source=run.source(n), parameters=own))
        if duel is not None and duel.passed and promotes(list(duel.quads.values()), len(run.entries)):
            found = _measured(measure(text, {}, HEADLINE, None), f"{run.id}/{n} by shape")
            shapes = candidates
    return _written(run, entry, task, root, found, shapes, license, force)


def _measured(contest: Contest, what: str) -> Verified:
    if not contest.passed:
        reason = next((str(f) for f in contest.findings if f.status), "no score")
        raise UsageError(f"{what} cannot be published: measured again, it is {contest.status}: {reason}")
    return choose.of(contest)


def _written(
    run: Run,
    entry: Entry,
    task: Task,
    root: Path,
    numbers: Verified,
    shapes: Mapping[str, Parameters],
    license: str,
    force: bool,
) -> tuple[Paths, Published]:
    target, source = run.meta.target, run.source(entry.n)
    folder = root / "kernels" / task.name / FOLDER
    paths = Paths(folder / f"{target}.py", folder / f"{target}.json")
    verdict = run.verdict(entry.n)
    assert verdict is not None
    assert entry.evidence is not None
    record = Published(
        task=task.name,
        task_sha=task.sha,
        entry=task.entry,
        target=target,
        sha256="",
        run=run.id,
        submission=entry.n,
        sha=entry.submission.sha,
        parameters=entry.submission.parameters,
        configurations=shapes,
        evidence=entry.evidence,
        metric=run.meta.metric,
        score=numbers.score,
        measurements=numbers.measurements,
        predictions=verdict.predictions,
        quads=numbers.quads,
        batches=numbers.batches,
        processes=numbers.processes,
        submissions=len(run.entries),
        toolchain=run.finale.toolchain if run.finale else verdict.toolchain,
        machine=run.meta.machine,
        evaluator=VERSION,
        kopt=kopt.__version__,
        license=license or _license(source, entry),
        published=f"{datetime.now(UTC):%Y-%m-%d}",
    )
    _may_replace(paths.record, record, force)
    text = compose(source, task, entry.submission.parameters, shapes, header(record, task))
    record = record.model_copy(update={"sha256": sha256(text)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(paths.kernel, text)
        write_whole(paths.record, record.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise HarnessError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return paths, record


def _may_replace(path: Path, record: Published, force: bool) -> None:
    if force or not path.is_file():
        return
    try:
        old = Published.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return
    if old.evidence is Evidence.MEASURED and record.evidence is Evidence.MODELLED:
        raise UsageError(f"{path} is of a measured kernel; --force replaces it by a modelled one")
    if old.evidence is record.evidence and old.task_sha == record.task_sha and old.score > record.score:
        raise UsageError(
            f"{path} holds {old.run}/{old.submission} with {100 * old.score:.1f} %, more than the "
            f"{100 * record.score:.1f} % of this one; --force replaces it"
        )


def header(record: Published, task: Task) -> str:
    """The comment on top of a published file, without comment signs."""
    name = product(record.target).name
    of = "of the data-sheet peak" if record.metric == "utilization" else "of the roofline"
    lines = [f"{task.title}, for {name}.", f"Published by kopt {record.kopt} on {record.published}.", ""]
    if record.evidence is Evidence.MODELLED:
        lines += [
            "MODELLED: no part of this file was timed on a GPU. A roofline model",
            f"expects {100 * record.score:.1f} % {of}, as a geometric mean over the shapes below.",
        ]
        lines += [f"  {p.shape:16s} {p.us:10.1f} us (modelled)" for p in record.predictions]
    else:
        times = behind(record.quads, record.batches)
        lines.append(f"Measured: {100 * record.score:.1f} % {of} (geometric mean), {times} a shape,")
        lines.append(f"in fresh processes, after the best of {record.submissions} submissions was known.")
        lines += [f"  {_row(m, record.metric)}" for m in record.measurements if m.regime != "sustained"]
        if lasting := [f"  {_row(m, record.metric)}" for m in record.measurements if m.regime == "sustained"]:
            lines += ["Under lasting load, which is no part of that number:", *lasting]
    chain = record.toolchain
    versions = [f"torch {chain.torch}", f"triton {chain.triton}", f"evaluator {record.evaluator}"]
    if driver := record.machine.get("driver"):
        versions.append(f"driver {driver}")
    lines += [
        "",
        ", ".join(versions),
        f"Run {record.run}, submission {record.submission} ({record.sha[:16]}); the .json beside it has all.",
        f"SPDX-License-Identifier: {record.license}" if record.license else "License: not stated by its author.",
    ]
    return "\n".join(lines)


def _row(m: Measurement, metric: str) -> str:
    share = m.utilization if metric == "utilization" else m.roofline
    use = f"{100 * share.value:5.1f} %" if share else ""
    ratio = f"{m.baseline_ratio.value:.3f} x baseline" if m.baseline_ratio else ""
    return f"{m.shape:16s} {m.host_us.value:10.1f} us  {use}  {ratio}".rstrip()


def _license(source: str, entry: Entry) -> str:
    if match := SPDX.search(source):
        return match[1].strip()
    # The families that a search climbs ship with kopt; anything else is its author's.
    return "Apache-2.0" if entry.submission.origin == "search" else ""
