"""One submission: what it was, what became of it and why, what was said about it, and what it changed."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from kopt.errors import KoptError
from kopt.records import Verdict
from kopt.report.differences import Difference, Line, difference, turnover
from kopt.report.highlight import Library
from kopt.report.ledger import Cost, Following, costs, text_of
from kopt.report.page.search import comparable, importance, parameters
from kopt.report.page.shapes import ShapeRow, shape_rows
from kopt.report.rows import Row, Rows
from kopt.report.task import About
from kopt.report.verdicts import problem, verdict
from kopt.run import Run
from kopt.text import dollars, duration, line, plain

MOST_TEXT = 6000
"""Characters of feedback and of one finding that are shown."""
MOST_CALLS = 40
MOST_DIFF = 600
"""Lines of a difference that are shown."""


class Kernel(NamedTuple):
    name: str
    facts: list[tuple[str, str]]
    mma: list[tuple[str, int]]
    remarks: list[str]


class Change(NamedTuple):
    """A difference to an earlier submission."""

    n: int
    what: str
    """"the one it came from" or "the best one then"."""
    parameters: list[str]
    diff: Difference
    cut: bool


class Article(NamedTuple):
    row: Row
    before: int | None
    after: int | None
    when: str
    cost: str
    verdict: Verdict | None
    problem: str
    """Why the verdict cannot be shown."""
    shapes: list[ShapeRow]
    kernels: list[Kernel]
    parameters: str
    trials: str
    importance: list[tuple[str, float]]
    calls: list[tuple[str, bool, str, str]]
    calls_left_out: int
    feedback: str
    changes: list[Change]


class Sources:
    """The sources of a run as line numbers. A source that cannot be read is empty, and says so."""

    def __init__(self, run: Run, library: Library) -> None:
        self.library = library
        self._run = run
        self._lines: dict[int, list[int]] = {}
        self._first: dict[bytes, int] = {}

    @classmethod
    def of(cls, run: Run) -> Sources:
        return cls(run, Library())

    def lines(self, n: int) -> list[int]:
        if n not in self._lines:
            name = f"sources/{self._run.entry(n).submission.file}"
            text = f"# the file {name} cannot be read\n"
            # A link could lead anywhere; a report holds what lies in the run.
            if (self._run.folder / name).resolve().is_relative_to(self._run.folder.resolve()):
                with contextlib.suppress(KoptError, UnicodeDecodeError):
                    text = self._run.source(n)
            self._lines[n] = self.library.add(text)
            self._first.setdefault(_digest(self._lines[n]), n)
        return self._lines[n]

    def first(self, n: int) -> int:
        """The first submission that was asked for with this very source."""
        return self._first[_digest(self.lines(n))]


def _digest(lines: Sequence[int]) -> bytes:
    """A live page holds the sources of its whole run, but not twice."""
    return blake2b(array("I", lines), digest_size=16).digest()


def article(following: Following, rows: Rows, about: About, sources: Sources, n: int, *, diffs: bool = True) -> Article:
    """`diffs` False leaves the differences to whoever shows the article."""
    run, ledger = following.run, following.ledger
    entry, row = run.entry(n), rows.row(n)
    assert row is not None, "every entry has a row"
    found = verdict(run, n)
    calls = ledger.calls.get(n, [])
    shown = calls[-MOST_CALLS:]
    place = ledger.feedback.get(n)
    return Article(
        row, *_neighbours(run, n),
        _when(row), cost(costs(ledger, n)), found, "" if found else problem(run, n),
        shape_rows(found, about), kernels(found), parameters(row.parameters.items()),
        f"{len(entry.trials)} parameter points were tried" if entry.trials else "",
        sorted(importance(comparable(entry, ledger)[1]).items(), key=lambda item: -item[1]),
        [(line(c.name, 30) or "no tool", c.ok, duration(c.seconds), line(text_of(run, c.place), 140)) for c in shown],
        len(calls) - len(shown), plain(text_of(run, place))[:MOST_TEXT] if place else "",
        changes(rows, sources, row) if diffs else [],
    )  # fmt: skip


def _neighbours(run: Run, n: int) -> tuple[int | None, int | None]:
    """The submissions before and after one: their numbers have gaps where another version wrote some."""
    order = list(run.entries)
    at = order.index(n)
    return order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None


def changes(rows: Rows, sources: Sources, row: Row) -> list[Change]:
    """Against the parent, and against the best submission when this one was proposed."""
    best = next((r.n for r in reversed(rows.submissions) if r.improved and r.n < row.n), None)
    wanted = [(row.parent, "the one it came from"), (best if best != row.parent else None, "the best one then")]
    if best is not None and best == row.parent:
        wanted[0] = (row.parent, "the one it came from, then the best")
    found = []
    for n, what in wanted:
        if (old := rows.row(n)) is not None and old.n < row.n:
            diff, cut = _cut(difference(sources.lines(old.n), sources.lines(row.n)))
            found.append(Change(old.n, what, changed_parameters(old.parameters, row.parameters), diff, cut))
    return found


def changed_parameters(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "BLOCK_N 128 → 256"; what is not pinned has its default."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"{line(name, 40)} {line(str(old.get(name, 'default')), 20)} → {line(str(new.get(name, 'default')), 20)}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def summary(rows: Rows, sources: Sources, row: Row) -> str:
    """The change to the parent in a few words: parameters, and lines added and removed."""
    old = rows.row(row.parent)
    if old is None or old.n >= row.n:
        return ""
    words = changed_parameters(old.parameters, row.parameters)
    added, removed = turnover(sources.lines(old.n), sources.lines(row.n))
    if added or removed:
        words.append(f"+{added} −{removed} lines")
    if len(words) > 4:
        words = [*words[:3], f"and {len(words) - 3} more"]
    return ", ".join(words) or "nothing"


def kernels(verdict: Verdict | None) -> list[Kernel]:
    """The traced facts of each kernel."""
    facts = next((s.facts for s in verdict.stages if s.stage == "trace"), {}) if verdict else {}
    found = facts.get("kernels")
    return [_kernel(k) for k in found.values() if isinstance(k, Mapping)] if isinstance(found, Mapping) else []


def _kernel(k: Mapping[str, Any]) -> Kernel:
    def number(key: str) -> int:
        value = k.get(key)
        return int(value) if isinstance(value, int | float) else 0

    limit = line(str(k.get("occupancy_limit") or ""), 30)
    spilled = number("spill_stores") + number("spill_loads")
    facts = [
        ("registers", str(k.get("registers", "?"))),
        ("spilled", f"{spilled} B" if spilled else "none"),
        ("shared memory", f"{number('shared') / 1024:.0f} of {number('shared_limit') / 1024:.0f} KiB"
         if number("shared_limit") else f"{number('shared') / 1024:.0f} KiB"),
        ("warps", str(k.get("warps", "?"))),
        ("stages", str(k.get("stages", "?"))),
        ("blocks per SM", str(k.get("occupancy", "?")) + (f", limited by {limit}" if limit else "")),
    ]  # fmt: skip
    if isinstance(waits := k.get("waits_per_mma"), int | float):
        facts.append(("waits per MMA", f"{waits:g}"))
    mma = k.get("mma")
    remarks = k.get("remarks")
    return Kernel(
        line(str(k.get("name", "?")), 80), facts,
        [(line(str(op), 60), int(count)) for op, count in mma.items()] if isinstance(mma, Mapping) else [],
        [line(str(r), 300) for r in remarks] if isinstance(remarks, Sequence) and not isinstance(remarks, str) else [],
    )  # fmt: skip


def _cut(diff: Difference) -> tuple[Difference, bool]:
    hunks: list[tuple[Line, ...]] = []
    count = 0
    for hunk in diff.hunks:
        if count + len(hunk) > MOST_DIFF:
            return diff._replace(hunks=tuple(hunks)), True
        hunks.append(hunk)
        count += len(hunk)
    return diff, False


def _when(row: Row) -> str:
    return f"proposed after {duration(row.proposed)} of the run"


def cost(spent: Cost) -> str:
    """ "1 min 20 s, $0.12, 13 tool calls": what was recorded of it."""
    parts = [duration(spent.seconds)] if spent.seconds else []
    parts += [dollars(spent.dollars, 0)] if spent.dollars else []
    parts += [f"{spent.tool_calls} tool calls" if spent.tool_calls != 1 else "1 tool call"] if spent.tool_calls else []
    return ", ".join(parts)
