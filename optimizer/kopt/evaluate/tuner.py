"""Structure comes from the proposer, numbers from here: the only module that talks to Optuna.

Suggestions are a pure function of the run's seed, the submission and the trials already told, in batches of a fixed
size. So a run that is killed and resumed asks for the same points, and more cores change nothing but the pace.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from kopt.records import Parameters, Status, Trial
from kopt.run import TrialRow
from kopt.source import Choice

BATCH = 4
"""Trials suggested before any of them is told: enough to feed the cores, few enough to learn from."""

NEAR = 0.05
"""What a glance may be wrong by, and a little more: points this near the best are looked at again."""

Space = Mapping[str, Sequence[Choice]]


def suggest(space: Space, told: Sequence[TrialRow], first: Parameters, seed: int, sha: str) -> list[dict[str, Choice]]:
    """The next batch of distinct, untried points; shorter than BATCH, or empty, when the space runs out.

    `first` is the default point: it counts as tried. `told` must end at a whole batch (see `Session.tune`).
    """
    tried = {key(space, row.parameters) for row in told} | {key(space, first)}
    missing = min(BATCH, prod(len(choices) for choices in space.values()) - len(tried))
    batch: list[dict[str, Choice]] = []
    for point in _candidates(space, told, _seed(seed, sha, len(told))):
        if len(batch) >= missing:
            break
        if key(space, point) not in tried:
            tried.add(key(space, point))
            batch.append(point)
    return batch


def finalists(trials: Sequence[Trial], best: float) -> list[int]:
    """Places of the trials of a batch that deserve a longer look, the most promising first: at most half of them.

    The others cannot come near the batch's best, or `best`, the best score known: a glance is good enough for them.
    """
    scores = {i: trial.score for i, trial in enumerate(trials) if trial.score is not None}
    top = max([best, *scores.values()])
    near = [i for i, score in scores.items() if score >= top * (1 - NEAR)]
    return sorted(near, key=lambda i: -scores[i])[: -(-len(trials) // 2)]


def key(space: Space, point: Parameters) -> tuple[Any, ...]:
    """Identity of a point within a space, whatever the order of its keys."""
    return tuple(point.get(name) for name in space)


def _seed(seed: int, sha: str, told: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{sha}:{told}".encode()).digest()[:4], "big")


def _candidates(space: Space, told: Sequence[TrialRow], seed: int) -> Iterator[dict[str, Choice]]:
    """Optuna's suggestions first; when it only repeats itself, the rest of the grid in a seeded order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: optuna.distributions.CategoricalDistribution(list(c)) for name, c in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in told:
        value = row.score if row.status is Status.PASSED and row.score is not None else 0.0
        study.add_trial(
            optuna.trial.create_trial(
                params={name: row.parameters[name] for name in space}, distributions=distributions, value=value
            )
        )
    for _ in range(8 * BATCH):
        yield dict(study.ask(distributions).params)
    grid = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    random.Random(seed).shuffle(grid)
    yield from grid


def importance(space: Space, told: Sequence[TrialRow]) -> dict[str, float]:
    """Share of the score's variance that each parameter explains (fANOVA), or {} with too little to go by."""
    import optuna

    rows = [row for row in told if row.status is Status.PASSED and row.score is not None]
    varied = [name for name in space if len({row.parameters[name] for row in rows}) > 1]
    if len(rows) < 8 or not varied or len({row.score for row in rows}) < 2:
        return {}
    distributions = {name: optuna.distributions.CategoricalDistribution(list(space[name])) for name in varied}
    study = optuna.create_study(direction="maximize")
    for row in rows:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: row.parameters[name] for name in varied}, distributions=distributions, value=row.score
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {name: float(v) for name, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
