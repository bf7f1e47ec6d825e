"""The part of a run's state that comes from a model, an agent or an MCP client: episodes, replies, tool calls, costs.

A `Dialogue` is the replay of their events, as a `Run` is of all others. It keeps places in the journal, not texts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kopt.journal import Event, amount, word

IDEAS = 40
"""Directions that hand-overs named and that are remembered: enough to choose from, few enough to stay flat."""

Place = tuple[int, int]
"""Offset and size of an event in the journal."""


@dataclass
class Usage:
    """What one model cost for one purpose."""

    requests: int = 0
    failed: int = 0
    input: int = 0
    """Tokens read, those from the provider's cache included."""
    cached: int = 0
    output: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0


@dataclass
class Episode:
    """One conversation: what opened it and the events since, by their places in the journal."""

    n: int
    mode: str
    model: str
    place: Place
    brief: str
    """Key of the brief that it began with."""
    events: list[tuple[str, Place]] = field(default_factory=list)
    calls: int = 0
    ended: str = ""
    """Why, or "" while it goes on."""


class Dialogue:
    """See the module's text. `charges` is the run's own table, written here and nowhere else for these events."""

    def __init__(self, charges: dict[str, float]) -> None:
        self._charges = charges
        self.episode: Episode | None = None
        """The last one that was begun."""
        self.usage: dict[tuple[str, str], Usage] = {}
        """By model and purpose."""
        self.briefs: dict[str, Place] = {}
        self.toolless: set[str] = set()
        """Models that turned out to have no tool calling."""
        self.replies: Counter[str] = Counter()
        """Replies of every model so far."""
        self.tools: Counter[str] = Counter()
        self.refused = 0
        """Calls that were answered with a refusal: no such tool, arguments that do not fit."""
        self.handed_over = ""
        """What the last episode said to the next one."""
        self.ideas: deque[str] = deque(maxlen=IDEAS)
        self.notices: list[str] = []
        """Notable things that went wrong outside of kopt: providers, agents."""
        self._reserved: tuple[float, str] | None = None

    @property
    def reserved(self) -> float:
        """Dollars that the request in flight may cost at most."""
        return self._reserved[0] if self._reserved else 0.0

    def handler(self, type: str) -> Callable[[Event], None] | None:
        return getattr(self, f"_on_{type}", None)

    def _on_brief(self, event: Event) -> None:
        self.briefs[word(event.payload, "sha")] = (event.offset, event.size)

    def _on_episode(self, event: Event) -> None:
        p = event.payload
        mode, model, brief = word(p, "mode"), word(p, "model"), word(p, "brief")
        self.episode = Episode(p["episode"], mode, model, (event.offset, event.size), brief)

    def _on_episode_end(self, event: Event) -> None:
        p = event.payload
        why, summary, ideas = word(p, "why"), word(p, "summary", ""), list(p.get("ideas", ()))
        if not all(isinstance(idea, str) for idea in ideas):
            raise TypeError("ideas that are not text")
        if self.episode is not None:
            self.episode.ended = why
        self.handed_over = summary
        self.ideas.extend(ideas)

    def _on_request(self, event: Event) -> None:
        reserved = (amount(event.payload, "reserved"), word(event.payload, "model"))
        self._settle_lost()
        self._charges["requests"] += 1
        self._reserved = reserved

    def _on_reply(self, event: Event) -> None:
        self._account(event, failed=False)
        self._reserved = None
        self.replies[event.payload["model"]] += 1
        self._follow("reply", event)

    def _on_request_failed(self, event: Event) -> None:
        kind = event.payload["kind"]
        self._account(event, failed=True)
        self._reserved = None
        if kind == "tools":
            self.toolless.add(event.payload["model"])

    def _on_notice(self, event: Event) -> None:
        self.notices.append(word(event.payload, "text"))

    def _on_tool(self, event: Event) -> None:
        p = event.payload
        name, ok, queued, screened = word(p, "name"), bool(p["ok"]), amount(p, "queued"), amount(p, "screened")
        self.tools[name] += 1
        self.refused += not ok
        self._charges["tool_calls"] += 1
        self._charges["queue_seconds"] += queued
        self._charges["evaluation_seconds"] += screened
        if self.episode is not None and p.get("episode") == self.episode.n:
            self.episode.calls += 1
            self._follow("tool", event)

    def _on_agent(self, event: Event) -> None:
        self._charges["model_seconds"] += event.payload["seconds"]

    def on_started(self) -> None:
        """A new process: what the last one had sent and never saw answered may have cost what it reserved."""
        self._settle_lost()

    def _settle_lost(self) -> None:
        if self._reserved is not None:
            self._charges["dollars"] += self._reserved[0]
            self._reserved = None

    def _account(self, event: Event, *, failed: bool) -> None:
        # All of it is read before any of it counts.
        p = event.payload
        tokens = p.get("usage") or {}
        read, cached, written = (amount(tokens, key) for key in ("input", "cache_read", "output"))
        seconds, dollars = amount(p, "seconds"), None if p.get("dollars") is None else amount(p, "dollars")
        used = self.usage.setdefault((p["model"], p.get("purpose", "")), Usage())
        used.requests += 1
        used.failed += failed
        used.input += read
        used.cached += cached
        used.output += written
        used.seconds += seconds
        self._charges["model_seconds"] += seconds
        self._charges["tokens"] += read + written
        if dollars is not None:
            used.dollars += dollars
            self._charges["dollars"] += dollars
        elif read or written:
            used.unpriced += 1
            self._charges["unpriced"] += 1

    def _follow(self, type: str, event: Event) -> None:
        if self.episode is not None and not self.episode.ended:
            self.episode.events.append((type, (event.offset, event.size)))
