"""What a run may spend, and what it has spent."""

from __future__ import annotations

from pydantic import Field

from kopt.records.base import Record


class Charges(Record):
    """What a run has spent. Failed and refused attempts are charged like the others."""

    submissions: int = 0
    trials: int = 0
    tool_calls: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    """Active time, pauses between processes excluded."""


class Budget(Record):
    """Limits of a run; None is no limit."""

    submissions: int | None = Field(default=None, ge=0)
    trials: int | None = Field(default=None, ge=0)
    minutes: float | None = Field(default=None, ge=0)
    tool_calls: int | None = Field(default=None, ge=0)
    dollars: float | None = Field(default=None, ge=0)
    until: float | None = Field(default=None, gt=0)
    """Stop once the best score reaches this."""

    def spent(self, charges: Charges, best: float | None = None) -> str:
        """Why nothing further may start, or "" while something may. Trials run out on their own: see `trials_left`."""
        if self.until is not None and best is not None and best >= self.until:
            return f"the best score {best:.3f} reached --until {self.until:g}"
        if self.submissions is not None and charges.submissions >= self.submissions:
            return f"the budget of {self.submissions} submissions is spent"
        if self.minutes is not None and charges.seconds >= 60 * self.minutes:
            return f"the budget of {self.minutes:g} minutes is spent"
        if self.tool_calls is not None and charges.tool_calls >= self.tool_calls:
            return f"the budget of {self.tool_calls} tool calls is spent"
        if self.dollars is not None and charges.dollars >= self.dollars:
            return f"the budget of ${self.dollars:g} is spent"
        return ""

    def trials_left(self, charges: Charges) -> int | None:
        return None if self.trials is None else max(0, self.trials - charges.trials)
