"""What a call of the entry did, in order: launches and ATen operations, with CUDA graphs taken at their word.

While a graph is captured nothing counts; every replay counts as the work that was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
"""JSON-able once taken: {"launch": id, ...} or {"aten": name, ...}. "arguments" may be put off by a callable."""
_MOST = 20_000
"""Events of one call that are kept; a call that does more is no kernel."""


@dataclass
class Graph:
    """The work captured in one CUDA graph: each event, and how to do it again."""

    work: list[tuple[Event, Callable[[], None] | None]] = field(default_factory=list)


class Tape:
    """Records one process's work. `again` of an event is called at every replay of a graph that captured it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.raised: list[BaseException] = []
        """Exceptions that left kopt's own layer; what a call returns despite of them was a fallback."""
        self.notes: dict[str, None] = {}
        self.captured = 0
        """Graphs captured so far."""
        self._graph: Graph | None = None
        self._paused = 0

    @property
    def capturing(self) -> bool:
        return self._graph is not None

    def add(self, event: Event, again: Callable[[], None] | None = None) -> None:
        if self._paused:
            return
        if self._graph is not None:
            self._graph.work.append((event, again))
        elif len(self.events) < _MOST:
            self.events.append(event)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def failed(self, error: BaseException) -> None:
        """An exception is about to reach the candidate."""
        if not self._paused and len(self.raised) < _MOST and not any(error is other for other in self.raised):
            self.raised.append(error)

    def begin_capture(self, graph: Graph) -> None:
        if self._graph is not None:
            raise RuntimeError("a CUDA graph is being captured already")
        graph.work.clear()
        self._graph = graph

    def end_capture(self) -> None:
        self._graph = None
        self.captured += 1

    def replay(self, graph: Graph) -> None:
        for event, again in graph.work:
            self.add(event)
            if again is not None:
                again()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done to choose a configuration is not done by the call."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def take(self) -> list[Event]:
        """The events since the last take, what was put off written down."""
        events, self.events = self.events, []
        for event in events:
            if callable(event.get("arguments")):
                event["arguments"] = event["arguments"]()
        return events
