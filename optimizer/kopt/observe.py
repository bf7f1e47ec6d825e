"""Who may watch a run while it is live: a terminal view, a page, a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kopt.journal import Event
    from kopt.run import Run


class Observer(Protocol):
    """Called by the session, one call at a time, in whichever thread wrote.

    It must not raise and should return at once: the run waits for it.
    """

    def on_event(self, event: Event, run: Run) -> None:
        """`event` is on disk and `run` already contains it."""

    def on_stage(self, submission: int, stage: str, trial: int | None) -> None:
        """A stage of evaluation begins; `trial` is the parameter point's number, None for the submission itself."""

    def on_stopping(self) -> None:
        """The run was asked to end and does so after the current stage. Called from a signal handler."""
