"""One submission in a terminal: its verdict, its source, its difference from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kopt.records import NO_DEVICE_TIME
from kopt.report.terminal import assignments, score, status, table, title
from kopt.text import duration, line, percent, plain

if TYPE_CHECKING:
    from kopt.records import Finding, Measurement, Verdict
    from kopt.report.rows import Row


def verdict(found: Verdict, row: Row | None = None, metric: str = "utilization") -> RenderableType:
    """What became of one submission, and the few facts that explain it."""
    head = Text.assemble(
        f"submission {found.submission}  " if row else "", status(found.status.value),
        f"  {score(found.score, found.evidence, metric)}  " if found.score is not None else "  ",
        (f"on {line(found.target, 20)}  {line(found.sha)[:8]}  {duration(found.seconds)}", "bright_black"),
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    if row is not None:
        origin = f"{row.origin}, from #{row.parent}" if row.parent else row.origin
        parts.append(Text(f"{line(row.note, 200)}  ({line(origin, 60)})"))
        if row.parameters:
            parts.append(Text("parameters  " + assignments(row.parameters)))
    parts.append(
        Text("stages      " + ", ".join(f"{line(s.stage, 20)} {s.outcome} ({s.seconds:.1f} s)" for s in found.stages))
    )
    parts += [_finding(finding) for finding in found.findings]
    if found.predictions:
        parts += [title("Modelled, by shape"), _predictions(found)]
    if found.measurements:
        parts += [title("Measured, by shape"), _measurements(found)]
    if (kernels := _kernels(found)) is not None:
        parts += [title("Kernels"), kernels]
    return Group(*parts)


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
    made = table("shape", "modelled us", "of peak", "of roofline", "bound", "confidence", "warnings")
    for index in (1, 2, 3):
        made.columns[index].justify = "right"
    for p in found.predictions:
        terms = ", ".join(f"{line(k, 12)} {us:.0f}" for k, us in sorted(p.terms.items(), key=lambda t: -t[1])[:3])
        made.add_row(
            Text(line(p.shape, 30)), f"{p.us:,.1f}", percent(p.utilization), percent(p.roofline),
            Text(f"{line(p.bound, 20)}{f' (us: {terms})' if terms else ''}"), p.confidence,
            Text(line("; ".join(p.warnings), 90)),
        )  # fmt: skip
    return made


def _measurements(found: Verdict) -> Table:
    made = table(
        "shape", "regime", "host us", "device us", "of peak", "at clock", "of roofline", "x baseline", "warnings"
    )
    for index in range(2, 8):
        made.columns[index].justify = "right"
    for m in found.measurements:
        made.add_row(
            Text(line(m.shape, 30)), m.regime, f"{m.host_us.value:,.1f}",
            f"{m.device_us.value:,.1f}" if m.device_us else _no_device(m),
            percent(m.utilization.value if m.utilization else None),
            percent(m.utilization_at_clock.value if m.utilization_at_clock else None),
            percent(m.roofline.value if m.roofline else None),
            f"{m.baseline_ratio.value:.2f}" if m.baseline_ratio else "",
            Text(line("; ".join([*m.throttle, *m.warnings]), 60)),
        )  # fmt: skip
    return made


def _no_device(m: Measurement) -> str:
    return "not replayable" if any(w.startswith(NO_DEVICE_TIME) for w in m.warnings) else ""


def _kernels(found: Verdict) -> Table | None:
    """The traced facts of each kernel, as far as this verdict has them."""
    facts = next((s.facts for s in found.stages if s.stage == "trace"), {})
    kernels = facts.get("kernels")
    if not isinstance(kernels, Mapping) or not kernels:
        return None
    made = table("kernel", "warps", "stages", "registers", "spilled", "shared", "blocks/SM", "matrix instructions")
    for index in range(1, 7):
        made.columns[index].justify = "right"
    for kernel in kernels.values():
        if isinstance(kernel, Mapping):
            made.add_row(*_kernel(kernel))
            for remark in kernel.get("remarks") or ():
                made.add_row(Text(f"  {line(str(remark), 70)}", style="yellow"))
    return made


def _kernel(kernel: Mapping[str, Any]) -> list[RenderableType]:
    """A kernel's row. Facts are free-form in a verdict: whatever is not as expected is left out or shown as text."""

    def cell(key: str) -> Text:
        return Text(line(str(kernel.get(key, "")), 12))

    def number(key: str) -> float:
        value = kernel.get(key)
        return value if isinstance(value, int | float) else 0

    spilled = number("spill_stores") + number("spill_loads")
    mma = kernel.get("mma")
    used = mma.items() if isinstance(mma, Mapping) else ()
    return [
        Text(line(str(kernel.get("name", "?")), 40)), *(cell(key) for key in ("warps", "stages", "registers")),
        f"{spilled:.0f} B" if spilled else "0", f"{number('shared') / 1024:.0f} KiB", cell("occupancy"),
        Text(", ".join(f"{line(str(name), 40)} x{line(str(count), 12)}" for name, count in used) or "none"),
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
