"""Runs as the server holds them: read on as their journals grow, rendered once for everybody who looks."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from kopt import journal, runs
from kopt.errors import UsageError
from kopt.meta import META
from kopt.report.ledger import Following
from kopt.report.page.render import Page, Site, parts, table_rows
from kopt.report.page.submission import Sources
from kopt.report.task import About, about

HELD = 8
"""Runs kept in memory; the one not looked at for longest goes."""


class Update(NamedTuple):
    """What a page needs to catch up: sections by element, table rows, and whether it should rather load anew."""

    seq: int
    parts: dict[str, str]
    rows: str
    changed: list[int]
    live: bool
    reload: bool

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


class LiveRun:
    """One run. Every method may be called from any thread."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.folder = folder
        self.site = Site(live=True, base=f"/runs/{folder.name}")
        self._following = Following(folder)
        self._about: About = about(self._following.run.meta, workspace)
        self._sources = Sources.of(self._following.run)
        self._changed: dict[int, int] = {}
        self._lock = threading.Lock()
        self._parts: tuple[int, dict[str, str]] = (-1, {})
        self._ground: tuple[str | None, int | None] | None = None
        """What all rows stand on: the kind of evidence, and the winner of a finale."""
        self._moved = 0
        """Event after which they stood on something else."""
        self._page: Page | None = None
        self.took = 0.0
        """Seconds that the last update took to render."""

    @property
    def grown(self) -> bool:
        return self._following.grown

    @property
    def seq(self) -> int:
        return self._following.seq

    @property
    def live(self) -> bool:
        return runs.is_live(self.folder)

    def page(self) -> Page:
        """The run as it is now."""
        with self._lock:
            return self._now()

    def article(self, n: int) -> str:
        with self._lock:
            page = self._now()
            page.following.run.entry(n)
            return page.article(n)

    def update(self, since: int) -> Update:
        """What happened after event `since`."""
        with self._lock:
            began = time.monotonic()
            page = self._now()
            changed = sorted(n for n, seq in self._changed.items() if seq > since)
            reload = since < self._moved
            if self._parts[0] != self._following.seq:
                self._parts = (self._following.seq, parts(page))
            rows = table_rows(page, changed) if not reload else ""
            self.took = time.monotonic() - began
            return Update(self._following.seq, self._parts[1], rows, changed, self.live, reload)

    def _now(self) -> Page:
        events = self._following.poll()
        for event in events:
            if (n := _submission(event)) is not None:
                self._changed[n] = event.seq
        if self._page is None or events:
            self._page = Page(self._following, self._about, self.site, self._sources)
            finale = self._following.run.finale
            ground = self._page.rows.evidence, finale.winner if finale else None
            if self._ground is not None and ground != self._ground:
                self._moved = self._following.seq
            self._ground = ground
        return self._page


class Runs:
    """The runs of a workspace, the last ones that were looked at held in memory."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._held: OrderedDict[str, LiveRun] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, id: str) -> LiveRun:
        """UsageError when there is no such run in this workspace."""
        folder = self._folder(id)
        with self._lock:
            held = self._held.pop(id, None)
            if held is None or _replaced(held):
                held = LiveRun(folder, self.workspace)
            self._held[id] = held
            while len(self._held) > HELD:
                self._held.popitem(last=False)
            return held

    def _folder(self, id: str) -> Path:
        if id not in runs.names(self.workspace):
            raise UsageError(f"no run {id!r} here")
        folder = runs.folder_of(self.workspace) / id
        inside = runs.folder_of(self.workspace).resolve()
        # A link could lead anywhere; what is shown lies in the workspace.
        for path in (folder, folder / META, folder / journal.FILE):
            if not path.resolve().is_relative_to(inside):
                raise UsageError(f"run {id} leads out of the workspace")
        return folder


def _replaced(held: LiveRun) -> bool:
    """Whether another run took the name: its journal is shorter than what was read."""
    try:
        return (held.folder / journal.FILE).stat().st_size < held._following.offset
    except OSError:
        return held._following.offset > 0


def _submission(event: journal.Event) -> int | None:
    """The submission that an event changes the row of."""
    payload = event.payload.get("submission" if event.type == "proposed" else event.type)
    if not isinstance(payload, dict):
        return None
    n = payload.get("n" if event.type == "proposed" else "submission")
    return n if isinstance(n, int) else None
