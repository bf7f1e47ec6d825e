"""A run, a verdict, a task in a terminal. Everything foreign goes in as text, never as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kopt.report.text import counted, duration, headline, line, percent, plain

if TYPE_CHECKING:
    from kopt.doctor import Check
    from kopt.records import Finding, Task, Verdict
    from kopt.report.rows import Failure, Row, Rows

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


def status(word: str) -> Text:
    return Text(word.replace("_", " "), style=STYLES.get(word, ""))


def summary(rows: Rows) -> RenderableType:
    """Headline, sparkline, landmarks, the top five, failures by cause."""
    parts: list[RenderableType] = [_headline(rows), _story(rows)]
    if rows.landmarks:
        parts += [_title("Landmarks"), _landmarks(rows)]
    if len(rows.top(2)) > 1:
        parts += [_title("Top five"), submissions(rows.top(5), rows.metric)]
    if rows.failures:
        parts += [_title("Failures by cause"), _failures(rows.failures)]
    if rows.lessons:
        parts += [_title("Lessons"), *(Text(f"  {line(lesson)}") for lesson in rows.lessons[-5:])]
    if rows.errors:
        parts += [_title("Errors of kopt itself"), *(Text(f"  {line(error)}", "red") for error in rows.errors[-5:])]
    if rows.unknown:
        kinds = ", ".join(f"{line(kind, 40)} ({count})" for kind, count in sorted(rows.unknown.items()))
        parts.append(Text(f"\nEvents that this version of kopt does not know: {kinds}", style="yellow"))
    return Group(*parts)


def submissions(rows: Iterable[Row], metric: str = "utilization") -> Table:
    """One line a submission."""
    table = _table("#", "status", f"score, {OF.get(metric, metric)}", "trials", "note")
    table.columns[0].justify = table.columns[3].justify = "right"
    for row in rows:
        shown = f"{row.evidence} {percent(row.score)}" if row.score is not None else ""
        note = row.note if row.status in ("passed", "pending") else row.reason or row.note
        table.add_row(str(row.n), status(row.status), shown, str(row.trials or ""), Text(line(note, 90)))
    return table


def verdict(found: Verdict, row: Row | None = None, metric: str = "utilization") -> RenderableType:
    """What became of one submission, and the few facts that explain it."""
    head = Text.assemble(
        f"submission {found.submission}  " if row else "", status(found.status.value),
        f"  {score(found.score, found.evidence, metric)}  " if found.score is not None else "  ",
        (f"on {line(found.target, 20)}  {found.sha[:8]}  {duration(found.seconds)}", "bright_black"),
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    if row is not None:
        origin = f"{row.origin}, from #{row.parent}" if row.parent else row.origin
        parts.append(Text(f"{line(row.note, 200)}  ({line(origin, 60)})"))
        if row.parameters:
            parts.append(Text("parameters  " + ", ".join(f"{line(k, 40)}={v}" for k, v in row.parameters.items())))
    parts.append(Text("stages      " + ", ".join(f"{s.stage} {s.outcome} ({s.seconds:.1f} s)" for s in found.stages)))
    parts += [_finding(finding) for finding in found.findings]
    if found.predictions:
        parts += [_title("Modelled, by shape"), _predictions(found)]
    if found.measurements:
        parts += [_title("Measured, by shape"), _measurements(found)]
    if (kernels := _kernels(found)) is not None:
        parts += [_title("Kernels"), kernels]
    return Group(*parts)


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
    return text.append("  ").append(f" {(rows.evidence or '').upper()} ", style=badge)


def _story(rows: Rows) -> Text:
    charges = rows.charges
    parts = [counted(len(rows.submissions), "submission")]
    parts += [f"{n} {name.replace('_', ' ')}" for name, n in rows.statuses.items()]
    parts += [counted(int(charges["trials"]), "trial"), duration(charges["seconds"])]
    if charges["tool_calls"]:
        parts.append(counted(int(charges["tool_calls"]), "tool call"))
    if charges["dollars"]:
        parts.append(f"${charges['dollars']:.2f}")
    text = Text(" · ".join(parts))
    if rows.submissions:
        text.append(f"\n{sparkline([row.score for row in rows.submissions])}", style="cyan")
    return text.append(f"\nrun {line(rows.id)}: {line(rows.stopped) or 'not ended'}", style="bright_black")


def _landmarks(rows: Rows) -> Table:
    table = _table("#", "at", f"{rows.evidence or ''} score", "step", "what")
    table.columns[0].justify = table.columns[3].justify = "right"
    for mark in rows.landmarks:
        step = f"{mark.factor:.2f}x" if mark.factor != 1 else ""
        table.add_row(str(mark.n), duration(mark.at), percent(mark.score), step, Text(line(mark.label, 60)))
    return table


def _failures(failures: Sequence[Failure]) -> Table:
    table = _table("count", "status", "cause", "for example")
    table.columns[0].justify = "right"
    for failure in failures[:8]:
        example = f"#{failure.submissions[0]}: {line(failure.example, 80)}"
        table.add_row(
            str(len(failure.submissions)), status(failure.status), Text(line(failure.cause, 40)), Text(example)
        )
    return table


def _finding(finding: Finding) -> Text:
    text = Text("finding     " if finding.status else "warning     ", style="red" if finding.status else "yellow")
    text.append(f"{line(finding.rule, 40)}  {line(str(finding), 300)}", style="default")
    if values := [
        f"{name} {line(value, 60)}"
        for name, value in (("got", finding.got), ("want", finding.want), ("bound", finding.bound))
        if value
    ]:
        text.append(f" ({', '.join(values)})", style="default")
    return text


def _predictions(found: Verdict) -> Table:
    table = _table("shape", "modelled us", "of peak", "of roofline", "bound", "confidence", "warnings")
    for index in (1, 2, 3):
        table.columns[index].justify = "right"
    for p in found.predictions:
        terms = ", ".join(f"{line(k, 12)} {us:.0f}" for k, us in sorted(p.terms.items(), key=lambda t: -t[1])[:3])
        table.add_row(
            Text(line(p.shape, 30)), f"{p.us:,.1f}", percent(p.utilization), percent(p.roofline),
            Text(f"{line(p.bound, 20)}{f' (us: {terms})' if terms else ''}"), p.confidence,
            Text(line("; ".join(p.warnings), 90)),
        )  # fmt: skip
    return table


def _measurements(found: Verdict) -> Table:
    table = _table("shape", "regime", "host us", "device us", "of peak", "at clock", "x baseline", "warnings")
    for index in range(2, 7):
        table.columns[index].justify = "right"
    for m in found.measurements:
        table.add_row(
            Text(line(m.shape, 30)), m.regime, f"{m.host_us.value:,.1f}",
            f"{m.device_us.value:,.1f}" if m.device_us else "",
            percent(m.utilization.value if m.utilization else None),
            percent(m.utilization_at_clock.value if m.utilization_at_clock else None),
            f"{m.baseline_ratio.value:.2f}" if m.baseline_ratio else "",
            Text(line("; ".join([*m.throttle, *m.warnings]), 60)),
        )  # fmt: skip
    return table


def _kernels(found: Verdict) -> Table | None:
    """The traced facts of each kernel, as far as this verdict has them."""
    facts = next((s.facts for s in found.stages if s.stage == "trace"), {})
    kernels = facts.get("kernels")
    if not isinstance(kernels, Mapping) or not kernels:
        return None
    table = _table("kernel", "warps", "stages", "registers", "spilled", "shared", "blocks/SM", "matrix instructions")
    for index in range(1, 7):
        table.columns[index].justify = "right"
    for kernel in kernels.values():
        if isinstance(kernel, Mapping):
            table.add_row(*_kernel(kernel))
            for remark in kernel.get("remarks") or ():
                table.add_row(Text(f"  {line(str(remark), 70)}", style="yellow"))
    return table


def _kernel(kernel: Mapping[str, Any]) -> list[RenderableType]:
    spilled = int(kernel.get("spill_stores") or 0) + int(kernel.get("spill_loads") or 0)
    mma = kernel.get("mma") or {}
    return [
        Text(line(str(kernel.get("name", "?")), 40)), *(str(kernel.get(key, "")) for key in ("warps", "stages")),
        str(kernel.get("registers", "")), f"{spilled} B" if spilled else "0",
        f"{int(kernel.get('shared') or 0) / 1024:.0f} KiB", str(kernel.get("occupancy", "")),
        Text(", ".join(f"{line(str(name), 40)} x{count}" for name, count in mma.items()) or "none"),
    ]  # fmt: skip


def source(text: str) -> Text:
    """A kernel's source with line numbers."""
    lines = plain(text).splitlines()
    width = len(str(len(lines)))
    return Text("\n".join(f"{number:{width}}  {content}" for number, content in enumerate(lines, 1)))


def difference(lines: Iterable[str]) -> Text:
    """A unified diff, coloured."""
    text = Text()
    for item in lines:
        style = "green" if item.startswith("+") else "red" if item.startswith("-") else ""
        text.append(plain(item.rstrip("\n")) + "\n", style="cyan" if item.startswith("@@") else style)
    return text


def note(row: Row) -> str:
    return headline(row.note, 60) or line(row.origin, 60)


def _title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def plain_line(text: str) -> Text:
    return Text(text, style="bright_black")


def check(found: Check) -> Text:
    """One line of the doctor's report, and a second one for the mend."""
    style = {"ok": "green", "warn": "yellow", "fail": "red"}[found.state]
    text = Text.assemble((f"{found.state:<5}", style), f"{found.name:<18}", line(found.finding))
    if found.mend:
        text.append(f"\n     {'':<18}mend: {line(found.mend)}", style="bright_black")
    return text


def tasks(found: Sequence[Task]) -> RenderableType:
    if not found:
        return Text("no tasks in sight; kopt tasks new NAME makes one")
    table = _table("task", "what", "scored by", "folder")
    for one in found:
        table.add_row(
            one.name,
            Text(line(one.title, 80)),
            f"{one.score.metric} ({line(one.score.peak, 20)})",
            Text(line(one.folder)),
        )
    return table


def task(found: Task, families: Sequence[str]) -> RenderableType:
    """A task's contract in a few lines."""
    tensors = _table("tensor", "role", "dtype", "dims")
    for tensor in found.tensors:
        tensors.add_row(tensor.name, tensor.role, tensor.dtype, ", ".join(map(str, tensor.dims)))
    shapes = _table("shapes", "sizes")
    for section in ("timing", "check_cpu", "check_gpu"):
        for shape in getattr(found, section):
            sizes = ", ".join(f"{name}={size}" for name, size in shape.dims.items())
            shapes.add_row(section, Text(f"{shape.name} ({sizes})"))
    demands = [
        f"{name} a multiple of {dim.multiple_of}" for name, dim in found.dims.items() if dim.multiple_of > 1
    ]  # fmt: skip
    call = ", ".join(tensor.name for tensor in found.tensors)
    return Group(
        Text(line(found.title), style="bold"),
        Text(f"{found.entry}({call}, *, ...)" + (f"   {', '.join(demands)}" if demands else "")),
        Text(f"scored by {found.score.metric} ({found.score.peak}); folder {line(found.folder)}"),
        Text(f"families: {', '.join(families) or 'none'}"),
        Text(""), tensors, Text(""), shapes,
    )  # fmt: skip
