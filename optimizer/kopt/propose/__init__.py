"""Who writes the next submission. A proposer drives a session until it has nothing more to offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kopt.errors import UsageError
from kopt.records import Task

if TYPE_CHECKING:
    from kopt.run import Meta
    from kopt.session import Session


class Proposer(Protocol):
    """Decides from the session's history alone, so that a resumed run goes on as if nothing had happened."""

    def drive(self, session: Session) -> None: ...


def proposer(meta: Meta, task: Task, folder: Path, workspace: Path) -> Proposer:
    """The proposer that a run was started with."""
    if meta.proposer == "search":
        from kopt.propose.search import Search, ladder

        start = (folder / "sources" / meta.start).read_text(encoding="utf-8") if meta.start else ""
        return Search(ladder(task, workspace, start))
    raise UsageError(f"unknown proposer {meta.proposer!r}; kopt knows search")
