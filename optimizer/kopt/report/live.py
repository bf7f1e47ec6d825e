"""A run while it goes on: a live view in a terminal, plain lines anywhere else. Both are observers of the session."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kopt.observe import Observer
from kopt.report.terminal import OF, sparkline, status
from kopt.text import duration, headline, line, percent

if TYPE_CHECKING:
    from kopt.budget import Budget
    from kopt.journal import Event
    from kopt.run import Run

RECENT = 6
"""Events shown in the live view."""
STOPPING = "stopping after this stage; Ctrl-C again ends it at once"


class LiveObserver(Observer, AbstractContextManager["LiveObserver"]):
    """An observer that is opened around the run."""


def observer(console: Console, budget: Budget | None = None) -> LiveObserver:
    """What fits the console: a view that redraws itself, or one line an event. `budget` stands in for the run's."""
    return View(console, budget) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


def describe(event: Event, run: Run) -> Text | None:
    """One line for an event, or None for those that say nothing by themselves."""
    if event.seq in run.unread:
        text = (
            f"event {event.seq}, {line(event.type, 40)!r}, is written in a way that this version of kopt does not know"
        )
        return Text(text, style="yellow")
    handler = _DESCRIBE.get(event.type)
    if handler is not None:
        return handler(event, run)
    if event.type in run.unknown:
        return Text(f"event {line(event.type, 40)!r}, which this version of kopt does not know", style="yellow")
    return None


def _verdict(event: Event, run: Run) -> Text:
    entry = run.entry(event.payload["verdict"]["submission"])
    text = Text(f"#{entry.n} ").append_text(status(str(entry.status)))
    if entry.score is not None:
        text.append(f"  {entry.evidence} {percent(entry.score)} {OF[run.meta.metric]}")
        if run.incumbent is entry:
            text.append("  new best", style="bold green")
    words = entry.reason if entry.reason else headline(entry.submission.note, 60)
    return text.append(f"  {line(words, 110)}", style="bright_black")


def _trial(event: Event, run: Run) -> Text:
    trial = event.payload["trial"]
    text = Text(f"#{trial['submission']} trial {trial['n']} ").append_text(status(str(trial["status"])))
    if trial.get("score") is not None:
        text.append(f"  {trial.get('evidence')} {percent(trial['score'])}")
    point = ", ".join(f"{line(str(k), 30)}={line(str(v), 20)}" for k, v in trial["parameters"].items())
    return text.append(f"  {line(point, 110)}", style="bright_black")


def _contest(event: Event, run: Run) -> Text:
    contest = event.payload["contest"]
    text = Text(f"#{contest['submission']} measured again ").append_text(status(str(contest["status"])))
    if contest.get("score") is not None:
        text.append(f"  {percent(contest['score'])} {OF[run.meta.metric]}")
    if contest.get("against") is not None:
        text.append(f"  against #{contest['against']}")
    return text


def _finale(event: Event, run: Run) -> Text:
    finale = event.payload["finale"]
    if finale.get("winner") is None:
        return Text(f"no verified headline: {line(str(finale['reason']), 110)}", style="yellow")
    share = "utilization" if run.meta.metric == "utilization" else "roofline"
    lasting = [m[share]["value"] for m in finale.get("sustained") or () if m.get(share)]
    if lasting:  # told before, without that
        return Text(
            f"under lasting load: #{finale['winner']}  {percent(min(lasting))} to {percent(max(lasting))} "
            f"{OF[run.meta.metric]}, by shape"
        )
    text = Text(f"verified: #{finale['winner']}  {percent(finale['score'])} {OF[run.meta.metric]}", style="bold green")
    return text.append(f"  {line(str(finale['reason']), 110)}", style="bright_black")


def _said(key: str, prefix: str, style: str) -> Callable[[Event, Run], Text]:
    return lambda event, run: Text(f"{prefix}{line(str(event.payload.get(key, '')), 160)}", style=style)


_DESCRIBE: dict[str, Callable[[Event, Run], Text]] = {
    "verdict": _verdict,
    "trial": _trial,
    "contest": _contest,
    "finale": _finale,
    "lesson": _said("text", "lesson: ", "cyan"),
    "error": _said("message", "error: ", "red"),
    "request_failed": _said("reason", "no answer: ", "yellow"),
    "notice": _said("text", "", "yellow"),
    "stopped": _said("reason", "stopped: ", "bold"),
}


class Lines(LiveObserver):
    """One line an event. Once nobody reads them any more it falls silent, and the run goes on."""

    def __init__(self, console: Console) -> None:
        self._console: Console | None = console

    def on_event(self, event: Event, run: Run) -> None:
        if (text := describe(event, run)) is not None:
            self._print(Text(f"{event.elapsed:7.1f} s  ").append_text(text))

    def _print(self, text: Text) -> None:
        if self._console is None:
            return
        try:
            self._console.print(text, soft_wrap=True)
            self._console.file.flush()
        except (OSError, SystemExit):  # a closed pipe, which a rich console answers by leaving
            self._console = None

    def on_stage(self, submission: int, stage: str, trial: int | None) -> None:
        """Said by the verdict that follows."""

    def on_stopping(self) -> None:
        with suppress(RuntimeError):  # the signal came in the middle of another line
            self._print(Text(STOPPING, style="yellow"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class View(LiveObserver):
    """Progress against the budget, the incumbent, what is being tried, and the last events.

    Everything shown is copied in the session's thread; the thread that redraws reads those copies only.
    """

    def __init__(self, console: Console, budget: Budget | None) -> None:
        self._budget = budget
        self._live = Live(self, console=console, refresh_per_second=5, transient=True)
        self._recent: deque[Text] = deque(maxlen=RECENT)
        self._scores: list[float | None] = []
        self._title = Text("starting the workers ...")
        self._best = Text()
        self._doing, self._stopping = "", False
        self._bars: list[tuple[str, float, float]] = []
        self._minutes: float | None = None
        self._elapsed, self._since = 0.0, time.monotonic()

    def on_event(self, event: Event, run: Run) -> None:
        if event.type == "verdict" and event.seq not in run.unread:
            if not self._scores and len(run.entries) > 1:  # resumed: what came before belongs to the picture
                self._scores = [entry.score for entry in run]
            else:
                self._scores.append(run.entry(event.payload["verdict"]["submission"]).score)
        if (text := describe(event, run)) is not None:
            self._recent.append(text)
        meta, budget, charges = run.meta, self._budget or run.meta.budget, run.charges
        self._title = Text.assemble(
            (f"{line(meta.task, 30)} on {line(meta.target, 20)}", "bold"), f"  {line(meta.proposer, 40)}  ",
            (line(meta.id, 60), "bright_black"),
        )  # fmt: skip
        if (best := run.incumbent) is not None:
            words = headline(best.submission.note, 60)
            self._best = Text.assemble(
                (f"{best.evidence} {percent(best.score)} {OF[meta.metric]}", "bold green"), f"  #{best.n}  {words}"
            )
        self._bars = [
            (name.replace("_", " "), float(getattr(charges, name)), float(limit))
            for name in ("submissions", "trials", "tool_calls", "dollars")
            if (limit := getattr(budget, name))
        ]
        self._minutes = budget.minutes
        self._elapsed, self._since = event.elapsed, time.monotonic()

    def on_stage(self, submission: int, stage: str, trial: int | None) -> None:
        if not self._stopping:
            self._doing = f"#{submission} {stage}" if trial is None else f"#{submission} trial {trial}"

    def on_stopping(self) -> None:
        self._stopping, self._doing = True, STOPPING

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        elapsed = self._elapsed + time.monotonic() - self._since
        grid = Table.grid(padding=(0, 2))
        for name, spent, limit in self._bars:
            grid.add_row(name, ProgressBar(limit, min(spent, limit), width=30), f"{spent:g} of {limit:g}")
        if self._minutes:
            bar = ProgressBar(self._minutes * 60, min(elapsed, self._minutes * 60), width=30)
            grid.add_row("time", bar, f"{duration(elapsed)} of {self._minutes:g} min")
        facts = Table.grid(padding=(0, 2))
        facts.add_row("best", self._best or Text("none yet", style="bright_black"))
        facts.add_row("trying", Text(line(self._doing or "...", 60)))
        facts.add_row("scores", Text(sparkline(self._scores, max(10, min(60, options.max_width - 12))), style="cyan"))
        facts.add_row("time", duration(elapsed))
        yield Group(self._title, grid, facts, *tuple(self._recent))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
