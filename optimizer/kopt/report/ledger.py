"""What a run spent and when: the part of a journal that no score depends on, kept for reports only.

A `Ledger` is a second replay beside `Run`. It keeps numbers and places in the journal, never texts.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import exp, log
from pathlib import Path
from typing import Any, NamedTuple

from kopt import journal
from kopt.dialogue import Place
from kopt.meta import read_meta
from kopt.run import Run

MEASURE = "measure"


class Spent(NamedTuple):
    """Totals of the run when a submission got its verdict."""

    seconds: float
    """Active."""
    dollars: float
    tool_calls: int
    time: float
    """Unix time."""


class Call(NamedTuple):
    """One tool call of a model, an agent or a client."""

    name: str
    ok: bool
    seconds: float
    place: Place


class Pair(NamedTuple):
    """One shape of one submission, predicted and measured, in microseconds."""

    n: int
    shape: str
    predicted: float
    measured: float


class Ledger:
    """See the module's text. `apply` follows `Run.apply` with the same event."""

    def __init__(self) -> None:
        self.spent: dict[int, Spent] = {}
        self.cost: dict[int, float] = {}
        """Seconds of evaluation by submission, its trials included."""
        self.calls: dict[int, list[Call]] = {}
        """Calls since the submission before, up to the one that asked for this one."""
        self.feedback: dict[int, Place] = {}
        """Where the journal holds what the proposer was told about a submission."""
        self.intervals: dict[int, tuple[float, float]] = {}
        """Of measured scores: geometric means of the ends of the shapes' intervals."""
        self.trials: dict[tuple[int, int], str] = {}
        """Evidence of every trial with a score, by submission and number."""
        self.stages: dict[str, float] = defaultdict(float)
        """Seconds by stage of evaluation; "tune" is the time that trials took."""
        self.phases: dict[str, float] = defaultdict(float)
        """Seconds of measuring by phase, as the judge reports them."""
        self.pairs: list[Pair] = []
        self.processes = 0
        """How often the run was started or resumed."""
        self.last = 0.0
        """Unix time of the last event."""
        self._open: list[Call] = []
        self._again: dict[int, tuple[float, float]] = {}
        """Intervals of what a finale measures, until it ends."""

    def apply(self, event: journal.Event, run: Run) -> None:
        self.last = event.time
        handler = getattr(self, f"_on_{event.type}", None)
        if handler is not None and event.seq not in run.unread:
            # No score depends on what is missing here; a newer version may write these parts otherwise.
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                handler(event, run)

    def _on_started(self, event: journal.Event, run: Run) -> None:
        self.processes += 1

    def _on_trial(self, event: journal.Event, run: Run) -> None:
        trial = event.payload["trial"]
        n, wall = trial["submission"], _number(event.payload.get("wall"))
        if trial.get("evidence"):
            self.trials[n, trial["n"]] = str(trial["evidence"])
        self.stages["tune"] += wall
        self.cost[n] = self.cost.get(n, 0.0) + wall

    def _on_verdict(self, event: journal.Event, run: Run) -> None:
        verdict = event.payload["verdict"]
        n = verdict["submission"]
        self.cost[n] = self.cost.get(n, 0.0) + _number(verdict.get("seconds"))
        for stage in verdict.get("stages") or ():
            self.stages[str(stage.get("stage"))] += _number(stage.get("seconds"))
            if stage.get("stage") == MEASURE and isinstance(phases := stage.get("facts", {}).get("seconds"), Mapping):
                for name, value in phases.items():
                    self.phases[str(name)] += _number(value)
        charges = run.charges
        self.spent[n] = Spent(event.elapsed, charges.dollars, charges.tool_calls, event.time)
        predicted = {p["shape"]: p["us"] for p in verdict.get("predictions") or ()}
        self.pairs += [
            Pair(n, m["shape"], predicted[m["shape"]], m["host_us"]["value"])
            for m in scored(verdict.get("measurements") or ())
            if m["shape"] in predicted
        ]
        if verdict.get("evidence") == "measured" and (ends := _interval(verdict, run.meta.metric)):
            self.intervals[n] = ends

    def _on_contest(self, event: journal.Event, run: Run) -> None:
        contest = event.payload["contest"]
        self.stages["finale"] += _number(contest.get("seconds"))
        if contest.get("against") is None and (ends := _interval(contest, run.meta.metric)):
            self._again[contest["submission"]] = ends

    def _on_finale(self, event: journal.Event, run: Run) -> None:
        finale = event.payload["finale"]
        self.stages["finale"] += _number(finale.get("sustained_seconds"))
        if finale.get("winner") is not None and (ends := _interval(finale, run.meta.metric)):
            self._again[finale["winner"]] = ends
        for n, ends in self._again.items():
            if run.entry(n).screened is not None:
                self.intervals[n] = ends
        self._again = {}

    def _on_tool(self, event: journal.Event, run: Run) -> None:
        p = event.payload
        place = (event.offset, event.size)
        self._open.append(Call(str(p.get("name", "")), bool(p.get("ok")), _number(p.get("seconds")), place))
        n = p.get("submission")
        if n in run.entries and n not in self.feedback:
            self.calls[n], self._open = self._open, []
            self.feedback[n] = place


class Following:
    """A run that is read on as its journal grows; holds the replay, the ledger and the place reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder, read_meta(folder))
        self.ledger = Ledger()
        self.offset, self.seq = 0, 0

    @property
    def path(self) -> Path:
        return self.folder / journal.FILE

    def poll(self) -> list[journal.Event]:
        """Events since the last call, all applied. HarnessError when the journal is broken."""
        return list(self.steps())

    def steps(self) -> Iterator[journal.Event]:
        """As `poll`, one by one: the run stands where each event left it."""
        for event in journal.read(self.path, self.offset, self.seq) if self.path.exists() else ():
            self.run.apply(event)
            self.ledger.apply(event, self.run)
            self.offset, self.seq = event.offset + event.size, event.seq
            yield event

    @property
    def grown(self) -> bool:
        """Whether the file holds more than was read; costs one look at the file's size."""
        try:
            return self.path.stat().st_size > self.offset
        except OSError:
            return False


def load(folder: Path) -> Following:
    """A run with its ledger as they are now."""
    following = Following(folder)
    following.poll()
    return following


def text_of(run: Run, place: Place) -> str:
    """What a tool call was answered, read again from the journal."""
    payload = journal.read_at(run.folder / journal.FILE, *place)
    return str(payload.get("text", ""))


class Cost(NamedTuple):
    """What one submission took, by itself."""

    seconds: float
    dollars: float
    tool_calls: int


def costs(ledger: Ledger, n: int) -> Cost:
    """Its evaluation, and what the run spent between the verdict before and its own."""
    spent = ledger.spent.get(n)
    before = ledger.spent.get(n - 1, Spent(0.0, 0.0, 0, 0.0))
    if spent is None:
        return Cost(ledger.cost.get(n, 0.0), 0.0, 0)
    return Cost(
        ledger.cost.get(n, 0.0), max(0.0, spent.dollars - before.dollars), max(0, spent.tool_calls - before.tool_calls)
    )


def scored(measurements: Iterable[Any]) -> list[Any]:
    """The measurements behind a score: those of the burst regime where there are any (see evaluate/score.py)."""
    every = list(measurements)
    burst = [m for m in every if (m["regime"] if isinstance(m, Mapping) else m.regime) == "burst"]
    return burst or every


def _interval(verdict: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    quantities = [m.get(metric) or {} for m in scored(verdict.get("measurements") or ())]
    lows, highs = [_number(q.get("low")) for q in quantities], [_number(q.get("high")) for q in quantities]
    if not quantities or min(*lows, *highs) <= 0:
        return None
    return _mean(lows), _mean(highs)


def _mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
