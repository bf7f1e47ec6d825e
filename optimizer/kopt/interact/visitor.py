"""Whoever is not the run's own proposer but works on it: an MCP client, an agent, a person with `kopt submit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from kopt.errors import KoptError, UsageError
from kopt.interact.tools import Result, Toolbox
from kopt.propose.opening import first_message
from kopt.session import Session, Stop
from kopt.text import line

Origin = Literal["mcp", "agent", "user"]
RESOURCES = {
    "brief": "The task, the contract, the machine, the budget, and the run so far.",
    "incumbent": "Source of the best submission so far.",
    "history": "Every submission lately tried, with its score or what failed.",
}


class Served(NamedTuple):
    """An answer as it crosses the socket."""

    ok: bool
    text: str
    submission: int | None = None


class Backend(Protocol):
    """A run that can be worked on, in this process or in another."""

    def call(self, name: str, arguments: dict[str, Any]) -> Served: ...

    def resource(self, name: str) -> str: ...


class Visitor:
    """A backend in the run's own process. Answers, never raises for what a caller did; a run that is over says so."""

    def __init__(self, session: Session, origin: Origin, on_call: Callable[[Result], None] | None = None) -> None:
        self._session = session
        self._box = Toolbox(session, origin)
        self._on_call = on_call

    def call(self, name: str, arguments: dict[str, Any]) -> Served:
        episode = self._session.run.dialogue.episode
        current = episode.n if episode is not None and not episode.ended and episode.model == "agent" else None
        try:
            result = self._box.call(name, arguments, episode=current)
            if result.ends and (handed := self._box.handed_over) is not None:
                self._session.record(
                    "episode_end", episode=current or 0, why="handed over", summary=handed.summary, ideas=handed.ideas
                )
        except Stop as stop:
            return Served(False, f"The run is over: {stop}. Nothing further can be done.")
        except KoptError as error:
            return Served(False, f"kopt broke: {line(str(error), 400)}")
        if self._on_call is not None:
            self._on_call(result)
        return Served(result.ok, result.text, result.submission)

    def resource(self, name: str) -> str:
        """UsageError names the resources there are."""
        run = self._session.run
        if name == "brief":
            return first_message(self._session)
        if name == "incumbent":
            return run.source(run.incumbent.n) if run.incumbent else "# Nothing has passed yet.\n"
        if name == "history":
            from kopt.interact.views import Views

            return Views(self._session).history("recent", 60)
        raise UsageError(f"no resource {line(name, 60)!r}; there are {', '.join(RESOURCES)}")
