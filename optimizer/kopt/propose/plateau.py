"""What an episode is for. A plateau does not stop a run: it climbs a ladder of ever larger changes.

Everything here is a function of the run, so that a resumed one decides the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from kopt.records import Status
from kopt.run import Entry, Run

Mode = Literal["start", "rescue", "speed", "diagnose", "directions", "pursue", "pivot", "parent"]

LADDER: tuple[str, ...] = ("diagnose", "directions", "pivot", "parent", "model")
STEP = 8
"""Submissions without gain per rung. The run to beat had its best at 145 of 147: patience is cheap, stopping is not."""
FAILED = 3
"""Failures in a row after which an episode is for correctness alone."""
RESCUE = 6
"""Failures in a row after which a rescue is given up and the best one is the base again."""

# Representations, each the next step after the one before, with what shows that a source has taken it.
_DEVICE = (
    ("TMA: host or device tensor descriptors in place of pointer arithmetic", r"ensor_?[dD]escriptor"),
    ("a persistent kernel: one program an SM that walks over tiles, its loop flattened", r"num_programs|(?i:num_sms)"),
    ("warp specialisation: producer warps that only load, consumer warps that only multiply", r"warp_specialize|gluon"),
    ("Gluon: explicit layouts, barriers and warp groups, where Triton's own pipelining is at its end", r"gluon"),
)  # fmt: skip
_HOST = (("launches captured once in a CUDA graph and replayed, reading the live buffers", r"CUDAGraph|cuda\.graph"),)


class Plan(NamedTuple):
    """What the next episode is opened with."""

    mode: Mode
    model: int
    """Place in the list of models."""
    direction: str = ""
    parent: int | None = None


def plan(run: Run, models: Sequence[str], *, captured: bool = False) -> Plan:
    """`models` are the names of all that may be asked, the preferred one first; `captured`: whether the task's calls
    are timed in a CUDA graph, in which a kernel can replay none of its own."""
    stale = run.stale
    model = _model(run, models, stale)
    if run.incumbent is None:
        return Plan("rescue" if _failures(run) >= FAILED else "start", model)
    if _failures(run) in range(FAILED, RESCUE):
        return Plan("rescue", model)
    if stale < STEP:
        return Plan("speed", model)
    rung = LADDER[(stale // STEP - 1) % len(LADDER)]
    if rung == "directions":
        # The episode after the one that was asked for directions takes one of them.
        if run.dialogue.episode and run.dialogue.episode.mode in ("directions", "pursue") and run.dialogue.ideas:
            return Plan("pursue", model, direction=most_different(run))
        return Plan("directions", model)
    if rung == "pivot":
        source = run.source(run.incumbent.n)
        return Plan("pivot", model, direction=representation(source, stale // STEP, host=not captured))
    if rung == "parent" and (parent := another_parent(run)) is not None:
        return Plan("parent", model, parent=parent.n)
    return Plan("diagnose" if rung == "diagnose" else "speed", model)


def _model(run: Run, models: Sequence[str], stale: int) -> int:
    """The model that found the best one goes on; after a whole ladder in vain, the next one."""
    origin = run.incumbent.submission.origin if run.incumbent else ""
    first = next((i for i, name in enumerate(models) if origin == f"model:{name}"), 0)
    return (first + stale // (STEP * len(LADDER))) % max(1, len(models))


def _failures(run: Run) -> int:
    """Failures at the end of the run, in a row; a pending submission does not count."""
    count = 0
    for n in range(len(run.entries), 0, -1):
        status = run.entries[n].status
        if status is Status.PASSED:
            break
        count += status is not None
        if count >= RESCUE:
            break
    return count


def most_different(run: Run) -> str:
    """Of the directions named lately, the one least like what was tried."""
    last = len(run.entries)
    tried = [_words(run.entries[n].submission.note) for n in range(max(1, last - 200), last + 1)]
    # A direction that was pursued is like itself in the notes that pursued it.
    ideas = list(dict.fromkeys(run.dialogue.ideas))
    return max(ideas, key=lambda idea: (_distance(_words(idea), tried), -ideas.index(idea)))


def another_parent(run: Run) -> Entry | None:
    """The best passed submission that is no ancestor of the best one; a later round takes the next best."""
    best = run.incumbent
    lineage: set[int] = set()
    entry = best
    while entry is not None and entry.n not in lineage:
        lineage.add(entry.n)
        parent = entry.submission.parent
        entry = run.entries.get(parent) if parent else None
    others = [e for e in list(run.top) if e.n not in lineage]
    return others[(run.stale // (STEP * len(LADDER))) % len(others)] if others else None


def representation(source: str, turn: int, *, host: bool = True) -> str:
    """The first representation that a source has not taken; on the device and, where `host` code counts, on the host by
    turns."""
    device = next((text for text, mark in _DEVICE if not re.search(mark, source)), "")
    around = next((text for text, mark in _HOST if host and not re.search(mark, source)), "")
    first, second = (device, around) if (turn // len(LADDER)) % 2 == 0 else (around, device)
    return first or second or "another decomposition of the work: split-K, stream-K, or operands swapped"


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 2)


def _distance(words: frozenset[str], others: Iterable[frozenset[str]]) -> float:
    """One minus the greatest Jaccard similarity with any of the others."""
    return 1 - max((len(words & other) / len(words | other) for other in others if words | other), default=0.0)
