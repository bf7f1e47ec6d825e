"""`kopt watch`: a run seen from another terminal, through its journal alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from kopt import runs
from kopt.journal import Event
from kopt.report.ledger import Following
from kopt.report.live import Lines, observer

LOOK = 0.2
"""Seconds between two looks at the journal."""
SHOWN = 12
"""Events from before that are shown again, so that a watcher sees where the run stands."""
LOST = 5
"""Looks without a writer after which a run is taken for dead: one that starts may not hold its journal yet."""


def follow(folder: Path, console: Console) -> Following:
    """Show events until the run ends or its process is gone."""
    following = Following(folder)
    gone = 0
    with observer(console, following.run.meta.budget) as watcher:
        if isinstance(watcher, Lines):
            past: Iterable[Event] = following.poll()[-SHOWN:]
        else:  # a view shows what the run came to, which it learns from all that happened
            past = following.steps()
        for event in past:
            watcher.on_event(event, following.run)
        while not following.run.ended:
            if not following.grown:
                gone = 0 if runs.is_live(folder) else gone + 1
                if gone >= LOST:
                    break
                time.sleep(LOOK)
            for event in following.steps():
                watcher.on_event(event, following.run)
    return following
