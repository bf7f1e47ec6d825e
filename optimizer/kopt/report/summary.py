"""A run in short: summary.json for programs, summary.md to paste into a pull request."""

from __future__ import annotations

import re
from typing import Any

from kopt.records import Quantity
from kopt.report.page.believe import Belief
from kopt.report.page.shapes import ShapeRow
from kopt.report.rows import Rows
from kopt.report.terminal import OF
from kopt.text import duration, line, percent

SCHEMA = 1


def as_json(rows: Rows, shapes: list[ShapeRow], state: Belief, interval: tuple[float, float] | None) -> dict[str, Any]:
    """The headline, the landmarks, the best submission by shape, failures by cause and what to believe."""
    whole = rows.as_json()
    keep = (
        "id", "task", "target", "target_name", "proposer", "metric", "created", "evidence", "statuses", "first", "best",
        "factor", "landmarks", "failures", "reference", "charges", "limits", "stopped", "verified", "lessons", "errors",
        "unknown", "unread",
    )  # fmt: skip
    return {
        "schema": SCHEMA,
        **{key: whole[key] for key in keep},
        "submissions": len(rows.submissions),
        "interval": interval,
        "shapes": [_shape(shape) for shape in shapes],
        "believe": {
            "state": state.state,
            "caveats": state.caveats,
            "again": [again._asdict() for again in state.again],
            "outcome": state.outcome,
            "command": state.command,
            "stages": {check.stage: check.outcome for check in state.checks},
        },
    }


def as_markdown(rows: Rows, shapes: list[ShapeRow], state: Belief, interval: tuple[float, float] | None) -> str:
    """GitHub's Markdown. Whatever a kernel or a model wrote is text in it, never markup."""
    of = OF.get(rows.metric, rows.metric)
    parts = [f"## {text(rows.task)} on {text(rows.target_name)}", ""]
    if rows.best is None or rows.first is None:
        parts.append("**No submission has a score.**")
    else:
        ends = f" (interval {percent(interval[0])} to {percent(interval[1])})" if interval else ""
        start = f"{percent(rows.first.score)} → " if rows.first.n != rows.best.n else ""
        factor = f", {rows.factor:.1f}x" if rows.factor and rows.factor > 1 else ""
        parts.append(f"**{rows.evidence}: {start}{percent(rows.best.score)} {of}{ends}{factor}**")
    parts += ["", state.state, "", _story(rows), ""]
    if shapes:
        parts += [*_shapes(shapes, rows.evidence), ""]
    if rows.landmarks:
        parts += [f"| # | {rows.evidence} | step | what |", "|---:|---:|---:|---|"]
        parts += [
            f"| {mark.n} | {percent(mark.score)} | {mark.factor:.2f}x | {text(mark.label)} |" for mark in rows.landmarks
        ] + [""]
    if rows.failures:
        causes = [f"{len(f.submissions)} {f.status.replace('_', ' ')} ({text(f.cause, 60)})" for f in rows.failures[:6]]
        parts += [f"Failures: {', '.join(causes)}.", ""]
    parts += ["![utilization by submission](utilization.png)", "", "```", state.command, "```", ""]
    return "\n".join(parts)


def text(foreign: str, width: int = 120) -> str:
    """One line in which no character is markup: Markdown's punctuation is escaped, HTML's too."""
    plain = line(foreign, width).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@" and "#" make mentions and references; a URL would become a link by itself.
    plain = re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", plain)
    return plain.replace("@", "&#64;").replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _story(rows: Rows) -> str:
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in rows.statuses.items())
    words = [f"{len(rows.submissions)} submissions ({counts})"] if counts else ["No submissions"]
    charges = rows.charges
    words += [f"{charges['trials']:.0f} trials"] if charges["trials"] else []
    words += [f"{charges['tool_calls']:.0f} tool calls"] if charges["tool_calls"] else []
    words.append(f"{duration(charges['seconds'])} of active time")
    if charges["dollars"]:
        words.append(f"{'at least ' if charges.get('unpriced') else ''}${charges['dollars']:.2f}")
    return ", ".join(words) + f". Run `{rows.id}`."


def _shapes(shapes: list[ShapeRow], evidence: str | None) -> list[str]:
    measured = evidence == "measured"
    head = ["shape", *(["regime"] if measured else []), f"{evidence} us", "TFLOP/s", "GB/s"]
    head += ["% of peak", "% of roofline"]
    head += ["x baseline"] if measured else []
    found = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for s in shapes:
        cells = [text(s.shape, 40), *([s.regime] if measured else [])]
        cells += [_quantity(s.host), _quantity(s.tflops), _quantity(s.gbs)]
        cells += [_quantity(s.utilization, 100), _quantity(s.roofline, 100)]
        cells += [_quantity(s.baseline)] if measured else []
        found.append(f"| {' | '.join(cells)} |")
    return found


def _quantity(value: Quantity | None, scale: float = 1.0) -> str:
    if value is None:
        return ""
    shown = f"{value.value * scale:,.2f}"
    if value.low is None or value.high is None:
        return shown
    return f"{shown} ({value.low * scale:,.2f} to {value.high * scale:,.2f})"


def _shape(shape: ShapeRow) -> dict[str, Any]:
    found = {}
    for name, value in shape._asdict().items():
        found[name] = value.model_dump(exclude_none=True) if isinstance(value, Quantity) else value
    return found
