"""Where a run's money and time went. What nobody recorded is not shown, and what overlaps says so."""

from __future__ import annotations

from typing import NamedTuple

from kopt.budget import Charges
from kopt.dialogue import Usage
from kopt.report.ledger import Ledger
from kopt.run import Run
from kopt.text import dollars, duration, line

WORDS = {
    "model": ("model", "waiting for a model's reply"),
    "policy": ("check", "reading the source, and the kernel's numbers against the reference"),
    "numerics": ("check", ""),
    "trace": ("compile", "compiling for the target"),
    "predict": ("predict", "counting work and modelling time"),
    "tune": ("tune", "trials of parameters"),
    "measure": ("measure", "on the GPU, checks included"),
    "finale": ("verify", "the best ones measured again at the end"),
}


LEAST = 0.5
"""Seconds below which a part would read "0 s"."""


class Part(NamedTuple):
    """A share of the run's active time."""

    key: str
    words: str
    seconds: float
    share: float
    """Percent of all that is shown."""
    start: float
    """Percent, where the parts before it end."""
    shown: str


class Bill(NamedTuple):
    """One model for one purpose."""

    model: str
    purpose: str
    usage: Usage
    dollars: str


class Money(NamedTuple):
    parts: list[Part]
    active: str
    wall: str
    processes: int
    overlap: str
    """A sentence when the parts are more than the clock showed."""
    phases: list[tuple[str, str]]
    bills: list[Bill]
    dollars: str
    tool_calls: int
    tools: list[tuple[str, int]]
    refused: int
    limits: list[tuple[str, str, str]]
    """Budget: name, spent, limit."""


def money(run: Run, ledger: Ledger) -> Money:
    charges = run.charges
    seconds: dict[str, float] = {}
    meanings: dict[str, str] = {}
    for stage, spent in (("model", charges.model_seconds), *sorted(ledger.stages.items())):
        key, meaning = WORDS.get(stage, (line(stage, 20), ""))
        seconds[key] = seconds.get(key, 0.0) + spent
        meanings[key] = meanings.get(key) or meaning
    known = sum(seconds.values())
    if (idle := charges.seconds - known) >= LEAST:
        seconds["idle"], meanings["idle"] = idle, "nothing of the above: starting up, waiting, deciding"
    over = ""
    if known > charges.seconds * 1.01 + 1:
        over = f"{duration(known)} of work in {duration(charges.seconds)}: parts ran at the same time."
    limits = run.meta.budget.model_dump(exclude_none=True)
    unpriced = charges.unpriced
    return Money(
        _parts(seconds, meanings), duration(charges.seconds),
        duration(max(0.0, ledger.last - run.meta.created)) if ledger.last else "", ledger.processes, over,
        [(line(name, 30), duration(s)) for name, s in sorted(ledger.phases.items(), key=lambda p: -p[1])
         if s >= LEAST],
        [
            Bill(line(model, 60), line(purpose, 30), used, dollars(used.dollars, used.unpriced))
            for (model, purpose), used in sorted(run.dialogue.usage.items(), key=lambda item: -item[1].dollars)
        ],
        dollars(charges.dollars, unpriced) if charges.dollars or unpriced else "", charges.tool_calls,
        [(line(name, 40) or "no tool named", count) for name, count in run.dialogue.tools.most_common()],
        run.dialogue.refused,
        [_limit(name, limit, charges) for name, limit in limits.items() if name == "minutes" or hasattr(charges, name)],
    )  # fmt: skip


def _limit(name: str, limit: float, charges: Charges) -> tuple[str, str, str]:
    spent = charges.seconds / 60 if name == "minutes" else getattr(charges, name)
    return name.replace("_", " "), _plain(spent), _plain(limit)


def _plain(number: float) -> str:
    """ "60,000,000", "4.5"."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def _parts(seconds: dict[str, float], meanings: dict[str, str]) -> list[Part]:
    total = sum(seconds.values()) or 1.0
    parts, start = [], 0.0
    order = ["model", "compile", "check", "predict", "tune", "measure", "verify"]
    for key in [k for k in order if k in seconds] + [k for k in seconds if k not in order]:
        if seconds[key] < LEAST:
            continue
        share = 100 * seconds[key] / total
        parts.append(
            Part(key, meanings[key], seconds[key], round(share, 2), round(start, 2), duration(seconds[key]))
        )  # fmt: skip
        start += share
    return parts
