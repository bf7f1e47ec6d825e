"""A run: the replay of its journal, and its sources. Reading needs neither torch nor triton."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kopt import journal
from kopt.budget import Charges
from kopt.dialogue import Dialogue
from kopt.errors import HarnessError, UsageError
from kopt.meta import Meta, read_meta
from kopt.records import (
    Contest,
    Evidence,
    Finale,
    Measurement,
    Parameters,
    Status,
    Submission,
    Trial,
    Verdict,
)

TOP = 64


class TrialRow(NamedTuple):
    """The part of a trial that stays in memory; `Run.trial` reads the rest again."""

    n: int
    parameters: Parameters
    status: Status
    score: float | None
    offset: int
    size: int


@dataclass
class Entry:
    """One submission of a run and what became of it so far."""

    submission: Submission
    proposed: float
    """Active seconds of the run when it was proposed."""
    status: Status | None = None
    """None while it has no verdict."""
    score: float | None = None
    evidence: Evidence | None = None
    reason: str = ""
    rule: str = ""
    """Rule of the finding that decided a failure, so that failures can be grouped by cause."""
    finished: float | None = None
    evaluator: int | None = None
    trials: list[TrialRow] = field(default_factory=list)
    place: tuple[int, int] = (0, 0)
    """Offset and size of the verdict in the journal."""
    screened: float | None = None
    """The score it had before the run's finale measured it again; None when that has not happened."""
    again: tuple[int, int] = (0, 0)
    """Offset and size of the event that measured it again."""
    refuted: str = ""
    """Why it did not hold up when it was measured again."""
    call: str = ""
    """The tool call that asked for it, so that a call repeated after a crash finds its own submission."""

    @property
    def n(self) -> int:
        return self.submission.n

    @property
    def rank(self) -> tuple[bool, float]:
        """Measured beats modelled, whatever the number."""
        return (self.evidence is Evidence.MEASURED, self.score if self.score is not None else -1.0)


class Run:
    """The replay of a journal. `apply` is the only place where an event changes state.

    Visitors read a live run from threads of their own while events are applied: what they go by is set last.
    """

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder = folder
        self.meta = meta
        self.entries: dict[int, Entry] = {}
        self.last = 0
        """Number of the last submission; 0 without any."""
        self.by_sha: dict[str, int] = {}
        self.by_code: dict[str, int] = {}
        """First submission of every distinct code and parameters, whatever its comments: see `source.essence`."""
        self.best: list[Entry] = []
        """Improvements of the best-so-far, in order; the last one is the incumbent, or a finale's winner."""
        self.contests: list[Contest] = []
        """Measurements of the finale, those of one that was interrupted included."""
        self.finale: Finale | None = None
        """The verified headline, until something further is submitted."""
        self.top: list[Entry] = []
        """The TOP best of all with a score, the best first: what a digest needs must not cost more as a run grows."""
        self.lessons: list[str] = []
        self.lesson_calls: set[str] = set()
        """Tool calls whose lesson is kept: one that is repeated after a crash keeps nothing again."""
        self.errors: list[str] = []
        self.stops: list[str] = []
        self.ended = ""
        """Why it came to rest; "" while it goes on, or when its process died."""
        self.unknown: Counter[str] = Counter()
        """Events this version does not know, by type."""
        self.unread: dict[int, str] = {}
        """Events of known types, by number, that another version wrote otherwise; what they said is left out."""
        self._charges: dict[str, float] = dict.fromkeys(Charges.model_fields, 0)
        self.dialogue = Dialogue(self._charges)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Replay a run from disk; UsageError when the folder is no run, HarnessError when its files are broken."""
        run = cls(folder, read_meta(folder))
        path = folder / journal.FILE
        if path.exists():
            for event in journal.read(path):
                run.apply(event)
        return run

    @property
    def id(self) -> str:
        return self.meta.id

    @property
    def charges(self) -> Charges:
        return Charges.model_validate(self._charges)

    @property
    def incumbent(self) -> Entry | None:
        return self.best[-1] if self.best else None

    @property
    def stale(self) -> int:
        """Submissions since the best one, or since the beginning."""
        return self.last - (self.best[-1].n if self.best else 0)

    @property
    def pending(self) -> Entry | None:
        """A submission that was proposed and has no verdict: the process died while it was being evaluated."""
        last = self.entries.get(self.last)
        return last if last is not None and last.status is None else None

    @property
    def statuses(self) -> Counter[Status]:
        return Counter(entry.status for entry in self if entry.status is not None)

    def __iter__(self) -> Iterator[Entry]:
        """Over those there are now, whatever is added meanwhile."""
        return iter(list(self.entries.values()))

    def source(self, n: int) -> str:
        entry = self.entry(n)
        path = self.folder / "sources" / entry.submission.file
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = "not UTF-8 text" if isinstance(error, ValueError) else error.strerror
            raise HarnessError(f"run {self.id}: cannot read {path}: {why}") from error

    def entry(self, n: int) -> Entry:
        if n not in self.entries:
            raise UsageError(f"run {self.id} has no submission {n}; it has 1 to {self.last}")
        return self.entries[n]

    def verdict(self, n: int) -> Verdict | None:
        """The whole verdict, read again from the journal."""
        entry = self.entry(n)
        if entry.status is None:
            return None
        return Verdict.model_validate(journal.read_at(self.folder / journal.FILE, *entry.place)["verdict"])

    def measured_again(self, n: int) -> tuple[Measurement, ...]:
        """What stands behind its score since a finale measured it again, and beside it the winner under lasting load;
        () when none has."""
        entry = self.entry(n)
        if entry.screened is None:
            return ()
        event = journal.read_at(self.folder / journal.FILE, *entry.again)
        if "finale" not in event:
            return Contest.model_validate(event["contest"]).measurements
        finale = Finale.model_validate(event["finale"])
        return finale.measurements + finale.sustained

    def trial(self, n: int, trial: int) -> Trial:
        row = self.entry(n).trials[trial - 1]
        return Trial.model_validate(journal.read_at(self.folder / journal.FILE, row.offset, row.size)["trial"])

    def apply(self, event: journal.Event) -> bool:
        """Whether the event was understood. One that was not changes nothing but the time that has passed."""
        self._charges["seconds"] = max(self._charges["seconds"], event.elapsed)
        handler = getattr(self, f"_on_{event.type}", None) or self.dialogue.handler(event.type)
        if handler is None:
            self.unknown[event.type] += 1
            return False
        try:
            handler(event)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.unread[event.seq] = event.type
            return False
        return True

    def ready(self) -> None:
        """HarnessError when this version cannot go on with the run, because it does not understand all of it."""
        if self.unread:
            seq, type = next(iter(self.unread.items()))
            raise HarnessError(
                f"run {self.id}: event {seq} ({type}) does not fit this version of kopt; it can be looked at, but only "
                f"the version that wrote it can go on with it"
            )

    def _on_proposed(self, event: journal.Event) -> None:
        submission = Submission.model_validate(event.payload["submission"])
        call, code = journal.word(event.payload, "call", ""), journal.word(event.payload, "code", "")
        self.entries[submission.n] = Entry(submission, event.elapsed, call=call)
        self.last = submission.n
        self.by_sha.setdefault(submission.sha, submission.n)
        if code:
            self.by_code.setdefault(code, submission.n)
        self._charges["submissions"] += 1
        # What comes after a finale is not covered by it.
        self.finale, self.contests = None, []

    def _on_trial(self, event: journal.Event) -> None:
        trial = event.payload["trial"]
        row = TrialRow(
            trial["n"], trial["parameters"], Status(trial["status"]), trial.get("score"), event.offset, event.size
        )
        entry, wall = self.entries[trial["submission"]], journal.amount(event.payload, "wall")
        entry.trials.append(row)
        self._charges["trials"] += 1
        self._charges["evaluation_seconds"] += wall

    def _on_verdict(self, event: journal.Event) -> None:
        verdict = event.payload["verdict"]
        entry = self.entries[verdict["submission"]]
        # All of it is read before any of it counts.
        status, evaluator, rule = Status(verdict["status"]), verdict["evaluator"], _deciding_rule(verdict)
        score = float(verdict["score"]) if verdict.get("score") is not None else None
        evidence = Evidence(verdict["evidence"]) if verdict.get("evidence") else None
        self._charges["evaluation_seconds"] += journal.amount(verdict, "seconds")
        entry.score, entry.evidence, entry.rule = score, evidence, rule
        entry.reason, entry.finished = str(event.payload.get("reason", "")), event.elapsed
        entry.evaluator, entry.place = evaluator, (event.offset, event.size)
        entry.status = status
        if entry.score is not None and (not self.best or entry.rank > self.best[-1].rank):
            self.best.append(entry)
        if entry.score is not None:
            insort(self.top, entry, key=lambda e: (not e.rank[0], -e.rank[1], e.n))
            del self.top[TOP:]

    def _on_contest(self, event: journal.Event) -> None:
        contest = Contest.model_validate(event.payload["contest"])
        entry = self.entries[contest.submission]
        self.contests.append(contest)
        self._charges["evaluation_seconds"] += contest.seconds
        if contest.passed and contest.against is None:
            entry.again = (event.offset, event.size)
        if contest.status is not Status.PASSED:
            entry.refuted = next((str(f) for f in contest.findings if f.status), str(contest.status))

    def _on_finale(self, event: journal.Event) -> None:
        finale = Finale.model_validate(event.payload["finale"])
        winner = self.entries[finale.winner] if finale.winner is not None else None
        self.finale = finale
        for contest in self.contests:
            entry = self.entries[contest.submission]
            if contest.passed and contest.against is None:
                entry.screened = entry.score if entry.screened is None else entry.screened
                entry.score = contest.score
        self.best = self._improvements()
        if winner is not None:
            winner.score, winner.again = finale.score, (event.offset, event.size)
            if self.best[-1:] != [winner]:
                self.best.append(winner)

    def _improvements(self) -> list[Entry]:
        """As `best` would have become if those that did not hold up had never had a score."""
        found: list[Entry] = []
        for entry in self:
            if entry.score is not None and not entry.refuted and (not found or entry.rank > found[-1].rank):
                found.append(entry)
        return found

    def _on_charge(self, event: journal.Event) -> None:
        calls, dollars = journal.amount(event.payload, "tool_calls"), journal.amount(event.payload, "dollars")
        self._charges["tool_calls"] += calls
        self._charges["dollars"] += dollars

    def _on_lesson(self, event: journal.Event) -> None:
        text, call = journal.word(event.payload, "text"), journal.word(event.payload, "call", "")
        self.lessons.append(text)
        if call:
            self.lesson_calls.add(call)

    def _on_error(self, event: journal.Event) -> None:
        self.errors.append(journal.word(event.payload, "message"))

    def _on_started(self, event: journal.Event) -> None:
        self.ended = ""
        self.dialogue.on_started()

    def _on_stopped(self, event: journal.Event) -> None:
        self.ended = journal.word(event.payload, "reason")
        self.stops.append(self.ended)


def _deciding_rule(verdict: Mapping[str, Any]) -> str:
    findings = (f for stage in verdict.get("stages", ()) for f in stage.get("findings", ()))
    return next((f["rule"] for f in findings if f.get("status") == verdict["status"]), "")
