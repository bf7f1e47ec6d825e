"""What the reading tools show: short selected texts, made from the journal and the sources."""

from __future__ import annotations

import difflib
import heapq
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from kopt.errors import KoptError, UsageError
from kopt.machine.products import product
from kopt.propose.feedback import entry_line, failure, limit_text, parameters, percent, score
from kopt.propose.limits import traced
from kopt.propose.templates import clip, fence
from kopt.records import KernelFacts, Measurement, Parameters, Status, Verdict
from kopt.run import Entry
from kopt.session import Session
from kopt.text import line

if TYPE_CHECKING:
    from kopt.evaluate.sass import Instruction
    from kopt.profile import Profile

_TELLING = re.compile(
    r"[A-Z]*MMA|UTC|LDG|STG|LDS|STS|LDSM|STSM|LDL|STL|UTMA|UBLKCP|WARP|[A-Z]*BAR|SYNCS|BRA|ATOM|RED|MUFU|SHFL|USETMAXREG"
)
"""Instructions that say what a loop waits for: multiplications, moves of data, waits, branches."""

SOURCE = 30_000
"""Characters of a source that are shown: three times what a long kernel has."""
DIFF = 10_000
LINES = 40
"""Source lines of a hot loop that are listed, those with the most instructions."""


class Views:
    """Reads on behalf of one caller. `seconds` adds up what its own evaluations took."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.seconds = 0.0

    def screen(self, source: str, pinned: Parameters | None) -> Verdict:
        started = time.monotonic()
        try:
            return self._session.screen(source, pinned)
        finally:
            self.seconds += time.monotonic() - started

    def read(self, n: int, what: Literal["source", "verdict", "diff"], against: int | None) -> str:
        run = self._session.run
        entry = run.entry(n)
        if what == "source":
            pinned = f", at {parameters(entry.submission.parameters)}" if entry.submission.parameters else ""
            return f"Submission {n}{pinned}:\n{fence(clip(run.source(n), SOURCE))}"
        if what == "diff":
            older = against or entry.submission.parent
            if older is None:
                raise UsageError(f"submission {n} has no parent: say against which one to compare it")
            return f"From submission {older} to {n}:\n{fence(clip(self._diff(older, n), DIFF), 'diff')}"
        verdict = run.verdict(n)
        if verdict is None:
            raise UsageError(f"submission {n} has no verdict yet")
        head = f"Submission {n}: {str(verdict.status).replace('_', ' ')}, by evaluator {verdict.evaluator}"
        return _joined(head, entry.submission.note, failure(verdict), score(run, verdict, n), limit_text(verdict))

    def history(self, order: Literal["recent", "best", "failed"], count: int) -> str:
        entries = list(self._session.run.entries.values())
        chosen: list[Entry]
        if order == "best":
            chosen = list(self._session.run.top)[:count]
        elif order == "failed":
            chosen = [e for e in entries if e.status not in (None, Status.PASSED)][-count:]
        else:
            chosen = entries[-count:]
        if not chosen:
            return "Nothing yet."
        return f"{len(entries)} submissions; {order} {len(chosen)}:\n" + "\n".join(entry_line(e) for e in chosen)

    def profile(self, n: int | None) -> str:
        """Modelled terms of every shape and traced facts of every kernel; on a GPU its counters too, by ncu."""
        n = self._named(n)
        run = self._session.run
        verdict = run.verdict(n)
        if verdict is None:
            raise UsageError(f"submission {n} has no verdict yet")
        text = profiled(verdict, n, run.measured_again(n))
        if verdict.status is not Status.PASSED or not self._session.measures:
            return text
        started = time.monotonic()
        try:
            return _joined(text, counted(self._session.counters(n)))
        except KoptError as why:
            return _joined(text, str(why))
        finally:
            self.seconds += time.monotonic() - started

    def sass(self, n: int | None, name: str) -> str:
        """Source lines of the hot loop with the instructions that each became."""
        n = self._named(n)
        entry, source = self._session.run.entry(n), self._session.run.source(n)
        started = time.monotonic()
        kernels = self._session.kernels(n)
        self.seconds += time.monotonic() - started
        if not kernels:
            raise UsageError(f"submission {n} launches no kernel that compiles")
        named = [k for k in kernels.values() if name in ("", k.name)]
        if not named:
            there = ", ".join(sorted({k.name for k in kernels.values()}))
            raise UsageError(f"submission {n} has no kernel {line(name, 60)!r}; it has {there}")
        kernel = max(named, key=lambda k: (sum(k.mma.values()), k.registers))
        loop = listing(self._session.hot_loop(kernel))
        return _joined(f"Submission {entry.n}, kernel {kernel.name}: {by_line(kernel, source)}", loop)

    def _named(self, n: int | None) -> int:
        if n is not None:
            return self._session.run.entry(n).n
        if self._session.run.incumbent is None:
            raise UsageError("no submission has a score yet: name one")
        return self._session.run.incumbent.n

    def _diff(self, older: int, newer: int) -> str:
        run = self._session.run
        before, after = run.entry(older), run.entry(newer)
        lines = list(
            difflib.unified_diff(
                run.source(older).splitlines(),
                run.source(newer).splitlines(),
                f"submission {older}",
                f"submission {newer}",
                lineterm="",
                n=2,
            )
        )
        if before.submission.parameters != after.submission.parameters:
            lines.append(
                f"parameters: {parameters(before.submission.parameters)} -> {parameters(after.submission.parameters)}"
            )
        return "\n".join(lines) or "(no difference)"


def profiled(verdict: Verdict, n: int, verified: Sequence[Measurement] = ()) -> str:
    """Modelled terms and measured times of every shape, traced facts of every kernel, and what binds.

    `verified` are the measurements that stand behind its score since a finale, in place of the verdict's.
    """
    return _joined(
        f"Submission {n} on {product(verdict.target).name}. Terms are what each unit alone would need, in us, as "
        f"modelled; they overlap, so the time is less than their sum.",
        "\n".join(_terms(verdict, verified)),
        "\n".join(_kernels(verdict)),
        limit_text(verdict),
    )


def listing(loop: Sequence[Instruction]) -> str:
    """The loop's instructions in order, with runs of those that say little counted instead of shown."""
    if not loop:
        return ""
    shown: list[str] = []
    run: Counter[str] = Counter()
    for instruction in (*loop, None):
        if instruction is not None and not _TELLING.match(instruction.opcode):
            run[instruction.opcode.partition(".")[0]] += 1
            continue
        if run:
            what = ", ".join(f"{op} x{n}" for op, n in run.most_common(4))
            shown.append(f"       … {run.total()} others: {what}")
            run.clear()
        if instruction is not None:
            shown.append(f"{instruction.address:>6x} {instruction.opcode} {line(instruction.operands, 70)}".rstrip())
    if len(shown) > 2 * LINES:
        left = len(shown) - 2 * LINES
        shown = [*shown[:LINES], f"       … {left} lines left out …", *shown[-LINES:]]
    return f"The loop itself, {len(loop)} instructions:\n{fence(chr(10).join(shown), 'text')}"


def by_line(kernel: KernelFacts, source: str) -> str:
    """The hot loop by source line: how many instructions of which class, beside the line itself."""
    table = kernel.hot_lines or kernel.lines
    what = "hot loop" if kernel.hot_lines else "whole kernel: no loop was found"
    text = source.splitlines()
    busiest = heapq.nlargest(LINES, table, key=lambda number: sum(table[number].values()))
    shown = []
    for number in sorted(busiest, key=lambda n: int(n) if n.isdigit() else 0):
        counts = ", ".join(f"{op} {n}" for op, n in sorted(table[number].items(), key=_telling_first)[:6])
        code = text[int(number) - 1].strip() if number.isdigit() and 0 < int(number) <= len(text) else ""
        shown.append(f"{number:>5} | {counts:<48} | {line(code, 100)}")
    total = sum(sum(counts.values()) for counts in table.values())
    head = f"{what}, {total} instructions, those that matter by source line"
    facts = [f"{kernel.registers} registers", f"{kernel.spill_stores + kernel.spill_loads} bytes spilled"]
    if kernel.depth is not None:
        facts.append(f"pipeline of {kernel.depth}")
    if kernel.waits_per_mma is not None:
        facts.append(f"{kernel.waits_per_mma:.2f} waits per MMA")
    remarks = "".join(f"\nptxas: {line(remark, 160)}" for remark in kernel.remarks[:3])
    return f"{head}; {', '.join(facts)}{remarks}\n{fence(chr(10).join(shown), 'text')}"


def _telling_first(item: tuple[str, int]) -> tuple[bool, int]:
    return (_TELLING.match(item[0]) is None, -item[1])


def counted(profiles: Sequence[Profile]) -> str:
    """What the GPU's counters say of each kernel."""
    lines = []
    for found in profiles[:4]:
        lines.append(f"- {found.kernel} at {found.shape}: {found.binds}")
        lines += [f"  - {fact}" for fact in found.facts]
    return "Counters of the GPU, by ncu, of the launches alone:\n" + "\n".join(lines)


def _terms(verdict: Verdict, verified: Sequence[Measurement]) -> list[str]:
    lines = []
    for p in verdict.predictions:
        ranked = sorted(p.terms.items(), key=lambda item: -item[1])
        terms = ", ".join(f"{name} {us:.1f}" for name, us in ranked if us >= 0.05)
        reached = f" ({percent(p.utilization)} of peak)" if p.utilization is not None else ""
        lines.append(f"- {p.shape}: {p.us:.1f} us{reached}: {terms}; confidence {p.confidence}")
        lines += [f"  warning: {line(text, 160)}" for text in p.warnings[:2]]
    for m in verified or verdict.measurements:
        device = f", on the device {m.device_us.value:.1f}" if m.device_us else ""
        lines.append(f"- {m.shape}, {m.regime}: measured {m.host_us.value:.1f} us{device}")
    return lines or ["- no shape was timed"]


def _kernels(verdict: Verdict) -> list[str]:
    facts = traced(verdict)
    lines = [_kernel(k) for k in facts.get("kernels", {}).values()][:6]
    host = facts.get("host_us", {})
    if host:
        lines.append("- host, us a call on this CPU: " + ", ".join(f"{s} {us:.0f}" for s, us in host.items()))
    calls = facts.get("calls", {})
    if calls:
        parts = (f"{shape} {len(launches)}" for shape, launches in calls.items())
        lines.append("- launches a call: " + ", ".join(parts))
    return lines


def _kernel(k: Mapping[str, object]) -> str:
    keys = (
        "registers",
        "spill_stores",
        "spill_loads",
        "shared",
        "occupancy",
        "occupancy_limit",
        "depth",
        "waits_per_mma",
    )
    parts = [f"{key.replace('_', ' ')} {k[key]}" for key in keys if k.get(key) not in (None, "")]
    mma = k.get("mma")
    if isinstance(mma, Mapping) and mma:
        parts.append("MMA " + ", ".join(f"{name} x{n}" for name, n in list(mma.items())[:3]))
    return f"- kernel {k.get('name')}, {k.get('warps')} warps: {', '.join(parts)}"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
