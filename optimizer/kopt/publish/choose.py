"""What a run knows that is worth publishing: a submission's verified numbers, and better parameters for a shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kopt.errors import UsageError
from kopt.records import Contest, Evidence, Measurement, Parameters, Prediction, Status, Task
from kopt.run import Entry, Run

GAIN = 0.02
"""What other parameters must save at a shape to be worth a place of their own in the file."""


class Verified(NamedTuple):
    """Numbers that were taken for the purpose: fresh processes and inputs, after the search was over."""

    score: float
    measurements: tuple[Measurement, ...]
    quads: int
    processes: int
    batches: int = 0
    """Behind every shape, where the task has no baseline."""


def verified(run: Run, n: int) -> Verified | None:
    """From the run's finale; None when it has none, or this submission was not in it."""
    contests = [c for c in run.contests if c.submission == n and c.passed]
    if run.finale is None or not contests:
        return None
    processes = sum(c.processes for c in contests)
    if run.finale.winner == n and run.finale.score is not None:
        held = run.finale
        return Verified(run.finale.score, held.measurements + held.sustained, held.quads, processes, held.batches)
    first = next((c for c in contests if c.against is None), None)
    return of(first) if first else None


def of(contest: Contest) -> Verified:
    assert contest.score is not None
    return Verified(contest.score, contest.measurements, contest.fewest, contest.processes, contest.batches)


def publishable(run: Run, n: int, *, modelled: bool) -> Entry:
    """The submission, if its numbers are of the wanted kind; UsageError says what is missing and what mends it."""
    entry = run.entry(n)
    where = f"{run.id}/{n}"
    if entry.status is not Status.PASSED:
        why = f"{entry.status}: {entry.reason}" if entry.status else "it has no verdict yet"
        raise UsageError(f"{where} cannot be published: {why}")
    if entry.refuted:
        raise UsageError(f"{where} cannot be published: when it was measured again, {entry.refuted}")
    if entry.score is None:
        raise UsageError(f"{where} cannot be published: it passed without a score, since a shape lacks a number")
    if entry.evidence is not Evidence.MEASURED and not modelled:
        raise UsageError(f"{where} was never measured; run it on a GPU, or say --modelled, and the file will say so")
    return entry


def by_shape(run: Run, n: int, task: Task) -> dict[str, Parameters]:
    """Parameters that did better at one timing shape than the submission's own, from trials of the same source.

    They come from single looks, with the best of many chosen: what they make has to be measured before it counts.
    """
    entry, source = run.entry(n), run.source(n)
    own = dict(entry.submission.parameters)
    verdict = run.verdict(n)
    if verdict is None:
        return {}
    times = _times(verdict.measurements or verdict.predictions)
    best = {shape.name: (times[shape.name] * (1 - GAIN), own) for shape in task.timing if shape.name in times}
    for point, tried in _points(run, source, entry.evidence):
        for name, us in tried.items():
            if name in best and us < best[name][0]:
                best[name] = us, point
    return {name: point for name, (_, point) in best.items() if point != own}


def _points(
    run: Run, source: str, evidence: Evidence | None
) -> Iterator[tuple[dict[str, int | float | str | bool], dict[str, float]]]:
    for other in run:
        if run.source(other.n) != source:
            continue
        base = dict(other.submission.parameters)
        verdict = run.verdict(other.n)
        if verdict is not None and verdict.passed and other.evidence is evidence:
            yield base, _times(verdict.measurements or verdict.predictions)
        for row in other.trials:
            if row.status is Status.PASSED:
                trial = run.trial(other.n, row.n)
                if trial.evidence is evidence:
                    yield {**base, **trial.parameters}, _times(trial.measurements or trial.predictions)


def _times(results: tuple[Measurement, ...] | tuple[Prediction, ...]) -> dict[str, float]:
    return {r.shape: r.us if isinstance(r, Prediction) else r.host_us.value for r in results}
