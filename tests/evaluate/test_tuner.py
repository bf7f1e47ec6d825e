"""What Optuna is asked for: distinct points, the same ones every time, until the space runs out."""

from __future__ import annotations

from itertools import product

from kopt.evaluate.tuner import BATCH, finalists, importance, key, suggest
from kopt.records import Evidence, Status, Trial
from kopt.run import TrialRow

SPACE = {"M": (64, 128, 256), "N": (64, 128, 256), "W": (4, 8)}
FIRST = {"M": 128, "N": 128, "W": 4}


def row(n: int, point: dict[str, object], score: float | None) -> TrialRow:
    return TrialRow(n, point, Status.PASSED if score is not None else Status.COMPILE_ERROR, score, 0, 0)  # type: ignore[arg-type]


def told(seed: int, batches: int) -> list[TrialRow]:
    rows: list[TrialRow] = []
    for _ in range(batches):
        for point in suggest(SPACE, rows, FIRST, seed, "sha"):
            score = point["M"] * point["N"] / 65536 if point["W"] == 8 else None  # type: ignore[operator]
            rows.append(row(len(rows) + 1, point, score))
    return rows


def test_the_same_history_gives_the_same_batch() -> None:
    rows = told(7, 2)
    assert suggest(SPACE, rows, FIRST, 7, "sha") == suggest(SPACE, list(rows), FIRST, 7, "sha")


def test_another_seed_gives_another_batch() -> None:
    assert suggest(SPACE, [], FIRST, 1, "sha") != suggest(SPACE, [], FIRST, 2, "sha")


def test_no_point_comes_twice_and_the_default_never() -> None:
    rows = told(3, 4)
    points = [key(SPACE, r.parameters) for r in rows]
    assert len(points) == 4 * BATCH
    assert len(set(points)) == len(points)
    assert key(SPACE, FIRST) not in points


def test_the_space_is_exhausted_exactly() -> None:
    rows = told(3, 10)
    assert {key(SPACE, r.parameters) for r in rows} | {key(SPACE, FIRST)} == set(product(*SPACE.values()))
    assert suggest(SPACE, rows, FIRST, 3, "sha") == []


def test_trials_go_where_the_score_is() -> None:
    space = {"M": tuple(range(16)), "N": tuple(range(16))}
    rows: list[TrialRow] = []
    for _ in range(12):
        for point in suggest(space, rows, {"M": 0, "N": 0}, 5, "sha"):
            rows.append(row(len(rows) + 1, point, 1.0 if point["M"] == 3 else 0.1))
    late = [r for r in rows[24:] if r.parameters["M"] == 3]
    assert len(late) > len(rows[24:]) / 16 * 3  # three times what blind sampling would give


def test_importance_names_the_parameter_that_matters() -> None:
    rows = [row(i + 1, {"M": m, "N": n, "W": w}, m / 256) for i, (m, n, w) in enumerate(product(*SPACE.values()))]
    shares = importance(SPACE, rows)
    assert max(shares, key=lambda name: shares[name]) == "M"


def test_importance_is_silent_with_too_little_to_go_by() -> None:
    assert importance(SPACE, [row(1, FIRST, 1.0)]) == {}


def trials(*scores: float | None) -> list[Trial]:
    status = {True: Status.COMPILE_ERROR, False: Status.PASSED}
    return [
        Trial(n=n, submission=1, parameters={}, status=status[s is None], score=s, evidence=s and Evidence.MEASURED)
        for n, s in enumerate(scores, 1)
    ]


def test_at_most_half_of_a_batch_are_looked_at_again_the_best_first() -> None:
    assert finalists(trials(0.70, 0.71, 0.69, 0.72), 0.0) == [3, 1]
    assert finalists(trials(0.70), 0.0) == [0]


def test_what_is_far_from_the_best_is_not_looked_at_again() -> None:
    assert finalists(trials(0.50, 0.71, 0.40, 0.60), 0.0) == [1]
    assert finalists(trials(0.50, 0.71, 0.40, 0.60), 0.80) == []


def test_failed_trials_are_never_finalists() -> None:
    assert finalists(trials(None, 0.3, None, None), 0.0) == [1]
    assert finalists(trials(None, None), 0.0) == []
