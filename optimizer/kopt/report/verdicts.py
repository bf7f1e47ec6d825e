"""Verdicts as they are shown: with what a finale measured in place of what the run measured on its way."""

from __future__ import annotations

from kopt.records import Verdict
from kopt.run import Run

NEWER = "This verdict was written by another version of kopt, and cannot be shown in full by this one."
UNREAD = "It has no verdict that this version of kopt can read: some in this journal were written by another one."
NONE = "It has no verdict yet: it is being evaluated, or its process died (kopt resume goes on)."


def verdict(run: Run, n: int) -> Verdict | None:
    """None where `problem` says why."""
    try:
        found, again = run.verdict(n), run.measured_again(n)
    except (ValueError, KeyError):
        return None
    if found is None or not again:
        return found
    return found.model_copy(update={"measurements": again, "score": run.entry(n).score})


def problem(run: Run, n: int) -> str:
    """Why there is no verdict to show."""
    if run.entry(n).status is not None:
        return NEWER
    return UNREAD if "verdict" in run.unread.values() else NONE
