"""Who takes part in a bench."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kopt import content, runs
from kopt.errors import UsageError
from kopt.evaluate.policy import check
from kopt.publish.record import find
from kopt.records import Finding, Parameters, Task
from kopt.run import Run
from kopt.source import SourceError, parse, read

BASELINE = "vendor library"


class Entry(NamedTuple):
    """One kernel of the table."""

    label: str
    source: str
    parameters: Parameters
    refused: Finding | None = None
    """Why it is not even tried."""


def entries(task: Task, target: str, root: Path, wanted: Iterable[str], *, others: bool = True) -> list[Entry]:
    """The kernels named by `wanted`, each a file or RUN/N; then, with `others`, the published one and the rungs.

    UsageError for what does not exist.
    """
    found = [_named(name, task, root) for name in wanted]
    if others:
        found += _published(task, target, root)
        found += _rungs(task, root)
    if not found:
        raise UsageError(f"nothing to bench: task {task.name} has no kernels yet; name a file or RUN/N")
    labels: dict[str, int] = {}
    made = []
    for entry in found:
        labels[entry.label] = count = labels.get(entry.label, 0) + 1
        label = entry.label if count == 1 else f"{entry.label} ({count})"
        refused = next((f for f in check(entry.source, task.entry, len(task.tensors), dict(entry.parameters))
                        if f.status), None)  # fmt: skip
        made.append(entry._replace(label=label, refused=refused))
    return made


def _named(name: str, task: Task, root: Path) -> Entry:
    if (path := Path(name)).is_file():
        return Entry(path.stem, read(path), {})
    run_name, n = runs.split(name)
    if not n:
        raise UsageError(f"{name} is neither a file nor RUN/N")
    run = Run.load(runs.resolve(run_name, root))
    if run.meta.task != task.name:
        raise UsageError(f"run {run.id} is a run of task {run.meta.task}, not of {task.name}")
    number = runs.number(run, n)
    return Entry(f"{run.id}/{number}", run.source(number), run.entry(number).submission.parameters)


def _published(task: Task, target: str, root: Path) -> Iterator[Entry]:
    found = find(task.name, root)
    if target in found:
        yield Entry("published", read(found[target][0]), {})


def _rungs(task: Task, root: Path) -> list[Entry]:
    rungs = []
    for path in content.families(task, root):
        text = read(path)
        try:
            rung = parse(text, task.entry).rung
        except SourceError as error:
            raise UsageError(f"{path}, line {error.line or 1}: {error}") from error
        rungs.append((rung if rung is not None else 1 << 30, Entry(path.stem, text, {})))
    return [entry for _, entry in sorted(rungs, key=lambda r: (r[0], r[1].label))]
