"""Batches of trials: which parameter points come next, and what becomes of them. Journaling is the session's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from kopt.evaluate import tuner
from kopt.evaluate.evaluator import Evaluator
from kopt.records import Evidence, Status, Trial
from kopt.run import Entry
from kopt.source import Choice, KernelSource

Stage = Callable[[int, str, int], None]
"""Told of a submission, a stage and a trial between any two of them; may raise."""


def following(entry: Entry, described: KernelSource, seed: int) -> list[dict[str, Choice]]:
    """The batch that the trials so far are in the middle of, or the next one: a crash changes nothing."""
    whole = entry.trials[: len(entry.trials) // tuner.BATCH * tuner.BATCH]
    first = {**described.defaults, **entry.submission.parameters}
    free = {name: c for name, c in described.tune.items() if name not in entry.submission.parameters}
    return tuner.suggest(free, whole, first, seed, entry.submission.sha) if free else []


def tried(
    evaluator: Evaluator, entry: Entry, source: str, batch: list[dict[str, Choice]], stage: Stage
) -> Iterator[Trial]:
    """The trials of a batch, in the order suggested, whichever finishes first. All are in flight at once."""
    start = len(entry.trials) + 1
    with ThreadPoolExecutor(max_workers=max(1, evaluator.cores)) as pool:
        futures = [
            pool.submit(evaluator.try_parameters, entry.submission, source, point, start + i)
            for i, point in enumerate(batch)
        ]
        try:
            trials = _finished(entry, futures, start, stage)
            measured = evaluator.evidence is Evidence.MEASURED
            yield from _halved(evaluator, entry, source, trials, stage) if measured else trials
        finally:
            for future in futures:
                future.cancel()


def _finished(entry: Entry, futures: list[Future[Trial]], start: int, stage: Stage) -> Iterator[Trial]:
    for i, future in enumerate(futures):
        stage(entry.n, "trial", start + i)
        yield future.result()


def _halved(evaluator: Evaluator, entry: Entry, source: str, trials: Iterator[Trial], stage: Stage) -> Iterator[Trial]:
    """On a GPU all trials get a glance, and only those that could be the best are measured properly."""
    batch = list(trials)
    known = [s for s in (entry.score, *(row.score for row in entry.trials)) if s is not None]
    final = tuner.finalists(batch, max(known, default=0.0))
    for i in final:
        stage(entry.n, "trial", batch[i].n)
        batch[i] = evaluator.confirm(entry.submission, source, batch[i])
    for i, trial in enumerate(batch):
        at_a_glance = trial.status is Status.PASSED and i not in final and not trial.pruned
        yield trial.model_copy(update={"pruned": "at a glance not among the best"}) if at_a_glance else trial
