"""The table of all submissions: one row each, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kopt.report.ledger import Ledger, costs
from kopt.report.page.chart import score
from kopt.report.page.submission import Sources, cost, summary
from kopt.report.rows import Row, Rows
from kopt.text import line

NOTE, REASON = 160, 160
SHORT = 80
"""Characters of a note, and of one in a run of many submissions."""


class TableRow(NamedTuple):
    row: Row
    value: str
    """What a score is sorted by."""
    seconds: str
    """What costs are sorted by."""
    score: str
    evidence: str
    """Only where it is not the run's."""
    change: str
    rule: str
    said: str
    note: str
    """Where `said` is the reason of a failure."""
    cost: str


def table(rows: Rows, ledger: Ledger, sources: Sources, only: Iterable[int] | None = None) -> list[TableRow]:
    """`only` picks submissions by number."""
    many = len(rows.submissions) > 1000
    wanted = rows.submissions if only is None else [row for n in only if (row := rows.row(n)) is not None]
    return [_row(row, rows, ledger, sources, SHORT if many else NOTE) for row in wanted]


def _row(row: Row, rows: Rows, ledger: Ledger, sources: Sources, width: int) -> TableRow:
    spent = costs(ledger, row.n)
    failed = row.status not in ("passed", "pending") and (row.rule or row.reason)
    said, aside = (row.reason, row.note) if failed else (row.note, "")
    if row.refuted:
        said, aside = f"Did not hold up when measured again: {row.refuted}", row.note
    return TableRow(
        row, "" if row.score is None else f"{row.score:.6g}", f"{spent.seconds:.3g}", score(row, ledger),
        (row.evidence or "") if row.evidence != rows.evidence else "", summary(rows, sources, row), line(row.rule, 60),
        line(said, width), line(aside, width), cost(spent),
    )  # fmt: skip
