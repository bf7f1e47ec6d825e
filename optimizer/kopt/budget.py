"""What a run may spend, and what it has spent."""

from __future__ import annotations

from pydantic import Field

from kopt.records.base import Record


class Charges(Record):
    """What a run has spent. Failed and refused attempts are charged like the others."""

    submissions: int = 0
    trials: int = 0
    tool_calls: int = 0
    requests: int = 0
    """Requests to a model, answered or not."""
    tokens: int = 0
    """Read and written by models."""
    dollars: float = 0.0
    """Of requests whose price is known; what an unanswered request may have cost at most is included."""
    unpriced: int = 0
    """Requests whose price is unknown: with any of these, `dollars` is a lower bound."""
    seconds: float = 0.0
    """Active time, pauses between processes excluded. The three below are parts of it."""
    model_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    queue_seconds: float = 0.0
    """Spent by callers waiting for an evaluation of somebody else."""


class Budget(Record):
    """Limits of a run; None is no limit."""

    submissions: int | None = Field(default=None, ge=0)
    trials: int | None = Field(default=None, ge=0)
    minutes: float | None = Field(default=None, ge=0)
    tool_calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    dollars: float | None = Field(default=None, ge=0)
    patience: int | None = Field(default=None, ge=1)
    """Submissions without a gain after which to stop; the best one may come late, so None never does."""
    until: float | None = Field(default=None, gt=0)
    """Stop once the best score reaches this."""

    def spent(self, charges: Charges, best: float | None = None, stale: int = 0) -> str:
        """Why nothing further may start, or "" while something may. Trials run out on their own: see `trials_left`.

        `stale` counts the submissions since the last gain.
        """
        if self.until is not None and best is not None and best >= self.until:
            return f"the best score {best:.3f} reached --until {self.until:g}"
        if self.submissions is not None and charges.submissions >= self.submissions:
            return f"the budget of {self.submissions} submissions is spent"
        if self.minutes is not None and charges.seconds >= 60 * self.minutes:
            return f"the budget of {self.minutes:g} minutes is spent"
        if self.tool_calls is not None and charges.tool_calls >= self.tool_calls:
            return f"the budget of {self.tool_calls} tool calls is spent"
        if self.tokens is not None and charges.tokens >= self.tokens:
            return f"the budget of {self.tokens} tokens is spent"
        if self.dollars is not None and charges.dollars >= self.dollars:
            return f"the budget of ${self.dollars:g} is spent"
        if self.patience is not None and stale >= self.patience:
            return f"{stale} submissions without a gain: --patience {self.patience}"
        return ""

    def trials_left(self, charges: Charges) -> int | None:
        return None if self.trials is None else max(0, self.trials - charges.trials)

    def covers(self, charges: Charges, dollars: float) -> bool:
        """Whether what is left would pay for this much more."""
        return self.dollars is None or charges.dollars + dollars <= self.dollars
