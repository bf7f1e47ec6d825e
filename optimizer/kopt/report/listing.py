"""The list of runs as plain aligned text: `kopt runs` must answer at once, and rich would take a third of its time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kopt.text import duration, line, percent

if TYPE_CHECKING:
    from kopt.runs import Summary

HEAD = ("run", "started", "task", "target", "subm.", "passed", "best", "active", "state")
RIGHT = (4, 5, 7)


def runs(found: Sequence[Summary]) -> str:
    """One line a run, the newest first; every score with what is behind it."""
    if not found:
        return "no runs yet; kopt run TASK starts one"
    table = [HEAD, *(_cells(row) for row in found)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in RIGHT else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _cells(row: Summary) -> tuple[str, ...]:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.created)) if row.created else ""
    best = f"{line(row.evidence or '', 12)} {percent(row.best)} (#{row.best_n})" if row.best is not None else ""
    state = f"{row.state}: {line(row.reason, 70)}" if row.reason else row.state
    return (
        line(row.id, 60), started, line(row.task, 30), line(row.target, 20), str(row.submissions), str(row.passed),
        best, duration(row.seconds), state,
    )  # fmt: skip
