"""A run in a terminal, and what everything shown there is made of. Foreign text goes in as text, never as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kopt.text import counted, dollars, duration, line, percent

if TYPE_CHECKING:
    from kopt.report.rows import Failure, Row, Rows, Spend

BARS = "▁▂▃▄▅▆▇█"
STYLES = {
    "passed": "green", "rejected": "red", "compile_error": "yellow", "wrong": "magenta", "crashed": "bright_red",
    "timeout": "cyan", "pending": "bright_black", "failed": "red", "unavailable": "yellow", "skipped": "bright_black",
}  # fmt: skip
OF = {"utilization": "of peak", "roofline": "of the roofline"}


def score(value: float | None, evidence: str | None, metric: str = "utilization") -> str:
    """A score never stands without what is behind it: "modelled 58.3 % of peak"."""
    if value is None:
        return "no score"
    return f"{evidence or 'unknown'} {percent(value)} {OF.get(metric, 'of ' + metric)}"


def unit(rows: Rows) -> str:
    """What an axis of scores shows: "modelled utilization, of peak"."""
    words = (rows.evidence or "", "utilization" if rows.metric == "utilization" else "")
    return ", ".join(part for part in (" ".join(filter(None, words)), OF.get(rows.metric, rows.metric)) if part)


def sparkline(values: Sequence[float | None], width: int = 60) -> str:
    """One bar a value, from 0 to the largest; the best of several when there are more. A blank has no score."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    bins = [[v for v in values[i : i + size] if v is not None] for i in range(0, len(values), size)]
    top = max((max(b) for b in bins if b), default=0.0)
    if top <= 0:
        return " " * len(bins)
    return "".join(BARS[min(7, int(8 * max(b) / top))] if b else " " for b in bins)


def assignments(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{line(str(name), 40)}={line(str(value), 40)}" for name, value in parameters.items())


def status(word: str) -> Text:
    return Text(line(word.replace("_", " "), 20), style=STYLES.get(word, ""))


def summary(rows: Rows) -> RenderableType:
    """Headline, sparkline, landmarks, the top five, failures by cause."""
    parts: list[RenderableType] = [_headline(rows), _story(rows)]
    parts += [_spend(spend) for spend in rows.models]
    if rows.landmarks:
        parts += [title("Landmarks"), _landmarks(rows)]
    if len(rows.top(2)) > 1:
        parts += [title("Top five"), submissions(rows.top(5), rows.metric)]
    refuted = [row for row in rows.submissions if row.refuted]
    if refuted:
        parts += [title("Did not hold up when measured again"), *(_refuted(row) for row in refuted)]
    if rows.failures:
        parts += [title("Failures by cause"), _failures(rows.failures)]
    if rows.lessons:
        parts += [title("Lessons"), *(Text(f"  {line(lesson)}") for lesson in rows.lessons[-5:])]
    if rows.errors:
        parts += [title("Errors of kopt itself"), *(Text(f"  {line(error)}", "red") for error in rows.errors[-5:])]
    for found, what in (
        (rows.unknown, "Events that this version of kopt does not know"),
        (rows.unread, "Events that another version of kopt wrote, and this one cannot read"),
    ):
        if found:
            kinds = ", ".join(f"{line(kind, 40)} ({count})" for kind, count in sorted(found.items()))
            parts.append(Text(f"\n{what}: {kinds}", style="yellow"))
    return Group(*parts)


def submissions(rows: Iterable[Row], metric: str = "utilization") -> Table:
    """One line a submission."""
    made = table("#", "status", f"score, {OF.get(metric, metric)}", "trials", "note")
    made.columns[0].justify = made.columns[3].justify = "right"
    for row in rows:
        shown = f"{row.evidence} {percent(row.score)}" if row.score is not None else ""
        note = row.note if row.status in ("passed", "pending") else row.reason or row.note
        made.add_row(str(row.n), status(row.status), shown, str(row.trials or ""), Text(line(note, 90)))
    return made


def _headline(rows: Rows) -> Text:
    text = Text.assemble((f"{line(rows.task)} on {line(rows.target_name)}", "bold"), "  ")
    if rows.best is None or rows.first is None:
        return text.append("no submission has a score", style="yellow")
    if rows.first.n != rows.best.n:
        text.append(f"{percent(rows.first.score)} -> ", style="bold")
    text.append(f"{percent(rows.best.score)} {OF.get(rows.metric, '')}", style="bold")
    if rows.factor and rows.factor > 1:
        text.append(f" ({rows.factor:.1f}x)")
    badge = "black on yellow" if rows.evidence == "modelled" else "black on green"
    text.append("  ").append(f" {(rows.evidence or '').upper()} ", style=badge)
    if rows.verified:
        text.append(f"  verified with {rows.behind} a shape", style="green")
    return text


def _story(rows: Rows) -> Text:
    charges = rows.charges
    parts = [counted(len(rows.submissions), "submission")]
    parts += [f"{n} {name.replace('_', ' ')}" for name, n in rows.statuses.items()]
    parts += [counted(int(charges["trials"]), "trial"), duration(charges["seconds"])]
    if charges["tool_calls"]:
        parts.append(counted(int(charges["tool_calls"]), "tool call"))
    if charges["dollars"]:
        parts.append(dollars(charges["dollars"], int(charges["unpriced"])))
    text = Text(" · ".join(parts))
    if rows.submissions:
        text.append(f"\n{sparkline([row.score for row in rows.submissions])}", style="cyan")
    return text.append(f"\nrun {line(rows.id)}: {line(rows.stopped) or 'not ended'}", style="bright_black")


def _spend(spend: Spend) -> Text:
    failed = f" ({spend.failed} failed)" if spend.failed else ""
    cached = f" ({spend.cached:,} from its cache)" if spend.cached else ""
    return Text(
        f"{line(spend.model, 60)}, {line(spend.purpose, 30)}: {counted(spend.requests, 'request')}{failed}, "
        f"{spend.read:,} tokens read{cached}, {spend.written:,} written, {dollars(spend.dollars, spend.unpriced)}",
        style="bright_black",
    )


def _landmarks(rows: Rows) -> Table:
    made = table("#", "at", f"{rows.evidence or ''} score", "step", "what")
    made.columns[0].justify = made.columns[3].justify = "right"
    for mark in rows.landmarks:
        step = f"{mark.factor:.2f}x" if mark.factor != 1 else ""
        made.add_row(str(mark.n), duration(mark.at), percent(mark.score), step, Text(line(mark.label, 60)))
    return made


def _refuted(row: Row) -> Text:
    return Text(f"  #{row.n}, {score(row.score, row.evidence)} before: {line(row.refuted, 110)}", "red")


def _failures(failures: Sequence[Failure]) -> Table:
    made = table("count", "status", "cause", "for example")
    made.columns[0].justify = "right"
    for failure in failures[:8]:
        example = f"#{failure.submissions[0]}: {line(failure.example, 80)}"
        made.add_row(
            str(len(failure.submissions)), status(failure.status), Text(line(failure.cause, 40)), Text(example)
        )
    return made


def title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
