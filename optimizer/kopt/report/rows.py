"""From a run to plain rows: what terminal, figure, JSON and pages all show. Pure; nothing is formatted here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from kopt.errors import UsageError
from kopt.machine.products import product
from kopt.records import Evidence, Status
from kopt.run import Entry, Run
from kopt.text import behind, headline, line

HOPPER = 90

MILESTONE_GAIN = 0.03
"""An improvement is a landmark when it passes the last landmark by this fraction."""

LANDMARKS = 7
"""At most so many: the first, the best, and the largest steps between them."""


class Row(NamedTuple):
    """One submission. Times are active seconds of the run."""

    n: int
    sha: str
    status: str
    """A status, or "pending" while it has no verdict."""
    score: float | None
    """Fraction of the peak or of the roofline; see `Rows.metric`."""
    evidence: str | None
    best: float | None
    """Best so far among those with the same evidence as the run's best one, this one included."""
    improved: bool
    note: str
    origin: str
    parent: int | None
    parameters: dict[str, Any]
    trials: int
    proposed: float
    finished: float | None
    rule: str
    reason: str
    evaluator: int | None
    screened: float | None
    """The score that it had before the run's finale measured it again."""
    refuted: str
    """Why it did not hold up when it was measured again."""


class Landmark(NamedTuple):
    """A step worth a name."""

    n: int
    label: str
    score: float
    factor: float
    """Over the landmark before; 1 for the first."""
    at: float
    """Active seconds of the run."""


class Failure(NamedTuple):
    """Submissions that failed for the same reason."""

    status: str
    cause: str
    """Rule, or the reason itself with its numbers left out."""
    example: str
    submissions: tuple[int, ...]


class Reference(NamedTuple):
    """A published result to hold a run against."""

    score: float
    label: str


class Spend(NamedTuple):
    """What one model was asked for one purpose."""

    model: str
    purpose: str
    requests: int
    failed: int
    read: int
    """Tokens, those from the provider's cache included."""
    cached: int
    written: int
    dollars: float
    unpriced: int
    """Requests whose price is unknown: with any of these, `dollars` is a lower bound."""


@dataclass(frozen=True)
class Rows:
    """A run, ready to be shown."""

    id: str
    task: str
    target: str
    target_name: str
    proposer: str
    metric: str
    """"utilization" (of the data-sheet peak) or "roofline"."""
    created: float
    evidence: str | None
    """What stands behind the best score: "modelled" or "measured"; None without a score."""
    submissions: tuple[Row, ...]
    landmarks: tuple[Landmark, ...]
    failures: tuple[Failure, ...]
    statuses: dict[str, int]
    first: Row | None
    """The first submission with a score, and evidence like the best one's."""
    best: Row | None
    reference: Reference | None
    charges: dict[str, float]
    models: tuple[Spend, ...]
    limits: dict[str, float]
    """The budget's limits that are set."""
    verified: int | None
    """How often the finale measured every shape of the best one's number; None without a finale."""
    behind: str
    """The same in words: "20 quads"; "" without a finale."""
    stopped: str
    """Why it ended, or "" while it goes on or when its process died."""
    lessons: tuple[str, ...]
    errors: tuple[str, ...]
    unknown: dict[str, int]
    """Events of types that this version does not know."""
    unread: dict[str, int]
    """Events of known types that another version wrote otherwise, by type."""

    @property
    def factor(self) -> float | None:
        """Best over first score."""
        if self.first is None or self.best is None or not self.first.score:
            return None
        return (self.best.score or 0.0) / self.first.score

    def row(self, n: int | None) -> Row | None:
        """A submission by number."""
        return self._by_number.get(n) if n is not None else None

    @cached_property
    def _by_number(self) -> dict[int, Row]:
        return {row.n: row for row in self.submissions}

    def top(self, count: int = 5) -> list[Row]:
        """The best one, and the next best, those with its evidence first; what did not hold up is not among them."""
        scored = [row for row in self.submissions if row.score is not None and not row.refuted]
        best = self.best.n if self.best else 0
        return sorted(scored, key=lambda r: (r.n != best, r.evidence != self.evidence, -(r.score or 0.0), r.n))[:count]

    def series(self) -> list[tuple[int, float]]:
        """Submission and best-so-far, where it changes."""
        return [(row.n, row.best) for row in self.submissions if row.improved and row.best is not None]

    def as_json(self) -> dict[str, Any]:
        """JSON-able; tuples become objects with the names used here."""
        whole = asdict(self)
        for key in ("submissions", "landmarks", "failures", "models"):
            whole[key] = [item._asdict() for item in getattr(self, key)]
        for key in ("first", "best", "reference"):
            item = getattr(self, key)
            whole[key] = item._asdict() if item is not None else None
        return {**whole, "factor": self.factor}


def rows(run: Run) -> Rows:
    """All that is shown of a run."""
    held = run.finale if run.finale and run.finale.winner is not None else None
    evidence = run.incumbent.evidence if run.incumbent else None
    submissions = tuple(_rows(run, evidence))
    shown = {row.n: row for row in submissions}
    scored = [row for row in submissions if row.improved]
    try:
        target, arch = product(run.meta.target).name, product(run.meta.target).arch
    except UsageError:  # a run of a newer kopt, or of one with more products
        target, arch = run.meta.target, 0
    limits = run.meta.budget.model_dump(exclude_none=True)
    return Rows(
        id=run.id,
        task=run.meta.task,
        target=run.meta.target,
        target_name=target,
        proposer=run.meta.proposer,
        metric=run.meta.metric,
        created=run.meta.created,
        evidence=str(evidence) if evidence else None,
        submissions=submissions,
        landmarks=tuple(_landmarks(run, [row for row in submissions if row.improved])),
        failures=tuple(_failures(run)),
        statuses=_statuses(submissions),
        first=scored[0] if scored else None,
        best=shown[run.incumbent.n] if run.incumbent else None,
        reference=_reference(run, arch),
        charges=run.charges.model_dump(),
        models=tuple(
            Spend(model, purpose, u.requests, u.failed, u.input, u.cached, u.output, u.dollars, u.unpriced)
            for (model, purpose), u in run.dialogue.usage.items()
        ),
        limits=limits,
        verified=held.quads or held.batches if held else None,
        behind=behind(held.quads, held.batches) if held else "",
        stopped=run.ended,
        lessons=tuple(run.lessons),
        errors=tuple(run.errors),
        unknown=dict(run.unknown),
        unread=dict(Counter(run.unread.values())),
    )


def label(entry: Entry) -> str:
    """A few words for a submission: the first clause of its note, else where it came from."""
    words = headline(entry.submission.note) or line(entry.submission.origin, 40) or f"submission {entry.n}"
    return f"{words}, tuned" if entry.submission.parameters else words


def _rows(run: Run, evidence: Evidence | None) -> Iterable[Row]:
    best: float | None = None
    # Numbers above the one that a finale verified were luck, or were not put to that test.
    most = run.finale.score if run.finale else None
    for entry in run:
        counts = (
            entry.score is not None
            and entry.evidence is evidence
            and not entry.refuted
            and (most is None or entry.score <= most)
        )
        improved = counts and (best is None or (entry.score or 0.0) > best or entry is run.incumbent)
        if improved:
            best = entry.score
        yield Row(
            n=entry.n,
            sha=entry.submission.sha,
            status=str(entry.status) if entry.status else "pending",
            score=entry.score,
            evidence=str(entry.evidence) if entry.evidence else None,
            best=best,
            improved=improved,
            note=entry.submission.note,
            origin=entry.submission.origin,
            parent=entry.submission.parent,
            parameters=dict(entry.submission.parameters),
            trials=len(entry.trials),
            proposed=entry.proposed,
            finished=entry.finished,
            rule=entry.rule,
            reason=entry.reason,
            evaluator=entry.evaluator,
            screened=entry.screened,
            refuted=entry.refuted,
        )


def _landmarks(run: Run, improvements: list[Row]) -> list[Landmark]:
    """The first score, the best, and between them the largest steps; always in order, never two with one number."""
    if not improvements:
        return []
    kept = [improvements[0]]
    for row in improvements[1:]:
        if (row.score or 0.0) >= (kept[-1].score or 0.0) * (1 + MILESTONE_GAIN):
            kept.append(row)
    if kept[-1].n != improvements[-1].n:
        # The best one speaks for the small steps since the landmark before it.
        kept.append(improvements[-1])
    while len(kept) > LANDMARKS:
        steps = {row.n: (row.score or 0.0) - (before.score or 0.0) for before, row in pairwise(kept[:-1])}
        smallest = min(steps, key=lambda n: (steps[n], n))
        kept = [row for row in kept if row.n != smallest]
    found = []
    for i, row in enumerate(kept):
        before = kept[i - 1].score if i else None
        found.append(
            Landmark(
                row.n, label(run.entry(row.n)), row.score or 0.0,
                (row.score or 0.0) / before if before else 1.0, row.finished or row.proposed,
            )
        )  # fmt: skip
    return found


def _failures(run: Run) -> list[Failure]:
    """Grouped by status and cause, the most frequent first."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in run:
        if entry.status is not None and entry.status is not Status.PASSED:
            cause = entry.rule or re.sub(r"\d[\d.e+-]*", "#", line(entry.reason, 80)) or "no reason recorded"
            groups.setdefault((str(entry.status), cause), []).append(entry)
    found = [
        Failure(status, cause, entries[0].reason, tuple(entry.n for entry in entries))
        for (status, cause), entries in groups.items()
    ]
    return sorted(found, key=lambda f: (-len(f.submissions), f.submissions))


def _statuses(submissions: tuple[Row, ...]) -> dict[str, int]:
    counts = dict.fromkeys([*map(str, Status), "pending"], 0)
    for row in submissions:
        counts[row.status] += 1
    return {status: count for status, count in counts.items() if count}


def _reference(run: Run, arch: int) -> Reference | None:
    """MiniMax M3's published result, where it means something: FP8 GEMM on Hopper, in fractions of the peak."""
    if arch == HOPPER and run.meta.task.startswith("fp8_gemm") and run.meta.metric == "utilization":
        return Reference(0.713, "MiniMax M3")
    return None
