"""A past run, judged again by today's evaluator: the same sources in the same order, new verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kopt.run import Run
from kopt.session import Session
from kopt.text import headline, line


class Replay:
    """The proposer behind `--replay RUN`."""

    def __init__(self, old: Run) -> None:
        self._old = old

    def drive(self, session: Session) -> None:
        # Numbers move where the old run holds what is a duplicate by now.
        numbers: dict[int, int] = {}
        for entry in self._old:
            parent = entry.submission.parent
            verdict = session.submit(
                self._old.source(entry.n),
                note=entry.submission.note,
                origin=f"replay:{self._old.id}/{entry.n}",
                parent=numbers.get(parent) if parent else None,
                parameters=entry.submission.parameters,
            )
            numbers[entry.n] = session.run.by_sha[verdict.sha]


class Change(NamedTuple):
    """What became of one submission of the old run."""

    old: int
    new: int | None
    was: str
    """Status then."""
    now: str
    score_was: float | None
    score_now: float | None
    note: str
    reason: str
    """Why it fails now, if it does."""

    @property
    def differs(self) -> bool:
        return self.was != self.now or self.score_was != self.score_now


def changes(old: Run, new: Run) -> Iterator[Change]:
    """Every submission of the old run beside what the new one made of it, in order."""
    for entry in old:
        n = new.by_sha.get(entry.submission.sha)
        found = new.entries[n] if n else None
        yield Change(
            old=entry.n,
            new=n,
            was=str(entry.status or "pending"),
            now=str(found.status or "pending") if found else "not judged",
            score_was=entry.score,
            score_now=found.score if found else None,
            note=entry.submission.note,
            reason=found.reason if found else "",
        )


def told(old: Run, found: Sequence[Change]) -> Iterator[str]:
    """What changed, a line each, after a line that sums it up."""
    differing = [change for change in found if change.differs]
    yield f"{len(found)} submissions of {old.id} judged again: {len(differing) or 'none'} differ"
    for change in differing:
        before, now = _said(change.was, change.score_was), _said(change.now, change.score_now)
        why = f" ({line(change.reason, 120)})" if change.reason else ""
        yield f"  {change.old}: {before} -> {now}{why}: {headline(change.note, 60)}"


def _said(status: str, score: float | None) -> str:
    return status.replace("_", " ") if score is None else f"{score:.2%}"
