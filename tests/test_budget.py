"""One place says whether anything further may start."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import quick

from kopt.budget import Budget, Charges
from kopt.session import Stop


@pytest.mark.parametrize(
    ("budget", "spent", "why"),
    [
        (Budget(submissions=3), Charges(submissions=3), "3 submissions"),
        (Budget(minutes=1), Charges(seconds=60), "1 minutes"),
        (Budget(tool_calls=2000), Charges(tool_calls=2000), "2000 tool calls"),
        (Budget(dollars=2.5), Charges(dollars=2.5), r"\$2.5"),
    ],
)
def test_a_limit_that_is_reached_says_so(budget: Budget, spent: Charges, why: str) -> None:
    assert why.replace("\\", "") in budget.spent(spent)


def test_below_every_limit_nothing_is_said() -> None:
    limits = Budget(submissions=3, minutes=1, tool_calls=5, dollars=1, until=0.5)
    assert limits.spent(Charges(submissions=2, seconds=59, tool_calls=4, dollars=0.99), best=0.49) == ""


def test_a_score_that_is_reached_ends_the_run() -> None:
    assert "--until 0.5" in Budget(until=0.5).spent(Charges(), best=0.5)
    assert Budget(until=0.5).spent(Charges(), best=None) == ""


def test_spent_trials_leave_submissions_possible() -> None:
    limits = Budget(trials=4)
    assert limits.spent(Charges(trials=9)) == ""
    assert limits.trials_left(Charges(trials=3)) == 1
    assert limits.trials_left(Charges(trials=9)) == 0
    assert Budget().trials_left(Charges(trials=9)) is None


@pytest.mark.parametrize("field", ["submissions", "trials", "minutes", "tool_calls", "dollars"])
def test_a_negative_limit_cannot_be_built(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Budget(**{field: -1})


def test_a_first_batch_of_trials_does_not_take_what_is_kept_for_the_finale(tmp_path: Path) -> None:
    """Nothing is known of trials yet, but how long the submission took is."""
    source = quick.kernel(0.2, tune="TUNE = {'BLOCK': [128, 256, 512]}\n")
    with quick.session(
        tmp_path, budget=Budget(minutes=1), on_judge=lambda _: time.sleep(1.1), kept=58.5
    ) as session:  # with 0.4 of 60 s left, and not begun
        assert session.submit(source, note="", origin="test").score == 0.2
        with pytest.raises(Stop, match="1 minutes"):
            session.tune(1, 2)
        assert not session.run.entry(1).trials
