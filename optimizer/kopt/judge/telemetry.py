"""What the device says of itself while a batch runs: a process of the judge's that reads, so that the judge can wait.

A thread in the judge would fight its waiting loop for the interpreter. The process sleeps until it is told to watch,
reads about once a millisecond until it is asked what it has seen, and ends with the judge. Times are those of
`time.perf_counter_ns`, which all processes of a machine share on Linux.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Protocol

from kopt.evaluate.worker import channel
from kopt.judge.backends import Activity, Sample

PERIOD_S = 1e-3
MARK_S = 0.1
"""Between counter marks: the driver brings counters up to date about ten times a second."""
LAG_S = 0.25
"""What a mark tells may be this old: marks count only so long after a load has begun."""
_SPAN_S = 0.2
"""Between two marks that are compared, at least."""
_KEPT = 8192


class Reading(NamedTuple):
    """One look at the device; None for what it does not report."""

    at: int
    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle: tuple[str, ...]


class Source(Protocol):
    """What is looked at."""

    no_counters: str
    """Why there are no activity counters, or ""."""

    def read(self) -> Reading: ...

    def mark(self) -> Any:
        """The counters as they are; a mark may be used again after some dozens of others."""
        ...

    def between(self, one: Any, other: Any) -> Mapping[str, float]:
        """Fractions of the time between two marks, by name."""
        ...


@dataclass
class Watch:
    """The process's side: what it has seen since it was told to watch."""

    source: Source
    until: int = 0
    counting: bool = False

    def __post_init__(self) -> None:
        self._readings: deque[Reading] = deque(maxlen=_KEPT)
        self._marks: list[tuple[int, Any]] = []

    def step(self) -> None:
        self._readings.append(self.source.read())
        if self.counting and not self.source.no_counters:
            now = time.perf_counter_ns()
            if not self._marks or now - self._marks[-1][0] >= MARK_S * 1e9:
                self._marks.append((now, self.source.mark()))

    def obey(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Do what the judge says; what to answer, or None."""
        if order["op"] == "watch":
            self.until, self.counting = int(order["until"]), bool(order["count"])
            self._readings.clear()
            self._marks.clear()
            return None
        self.until = 0
        since, until = int(order["since"]), int(order["until"])
        found: dict[str, Any] = {"readings": [r for r in self._readings if since <= r.at <= until]}
        if self.counting:
            found["activity"] = self._activity(since, until)
        return found

    def _activity(self, since: int, until: int) -> dict[str, Any]:
        inside = [mark for mark in self._marks if since + LAG_S * 1e9 <= mark[0] <= until]
        if not inside or inside[-1][0] - inside[0][0] < _SPAN_S * 1e9:
            return {}
        seconds = (inside[-1][0] - inside[0][0]) / 1e9
        return {"seconds": seconds, "fractions": dict(self.source.between(inside[0][1], inside[-1][1]))}


def serve(sock: socket.socket, source: Source) -> None:
    """Watch when told to, until the other end is gone."""
    watch, reader = Watch(source), channel.Reader()
    sock.sendall(channel.encode({"no_counters": source.no_counters}))
    while True:
        watching = time.perf_counter_ns() < watch.until
        if not select.select([sock], [], [], PERIOD_S if watching else None)[0]:
            watch.step()
            continue
        data = sock.recv(1 << 16)
        if not data:
            return
        reader.feed(data)
        while (order := reader.take()) is not None:
            if (answer := watch.obey(order)) is not None:
                sock.sendall(channel.encode(answer))
            elif watch.until:
                watch.step()


class Watcher:
    """The judge's side. A process that does not answer is done without: telemetry decides no verdict by its absence."""

    _PATIENCE_S = 2.0

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._reader = sock, channel.Reader()
        self._counting = False
        self.activity: Activity | None = None
        """What the counters showed in the last window, if they were asked for."""
        sock.settimeout(30.0)
        self.no_counters = str((self._hear() or {}).get("no_counters", "its process does not answer"))
        with suppress(OSError):
            sock.settimeout(self._PATIENCE_S)

    def watch(self, seconds: float, *, count: bool) -> None:
        """Look from now on, for so long at most."""
        self._counting = count
        self._tell({"op": "watch", "until": time.perf_counter_ns() + int(seconds * 1e9), "count": count})

    def seen(self, since: int, until: int) -> Sample | None:
        """What was seen in a window, which ends the watch; None when nothing was."""
        self.activity = None
        self._tell({"op": "seen", "since": since, "until": until})
        answer = self._hear()
        if answer is None:
            return None
        if found := answer.get("activity"):
            self.activity = Activity(seconds=found["seconds"], **found["fractions"])
        return together([Reading(r[0], r[1], r[2], r[3], tuple(r[4])) for r in answer["readings"]])

    def close(self) -> None:
        self._sock.close()

    def _tell(self, order: Mapping[str, Any]) -> None:
        try:
            self._sock.sendall(channel.encode(order))
        except OSError:
            self._sock.close()

    def _hear(self) -> dict[str, Any] | None:
        try:
            return channel.receive(self._sock, self._reader)
        except (OSError, EOFError, channel.FrameError):
            self._sock.close()
            return None


def together(readings: Sequence[Reading]) -> Sample | None:
    """Medians, and every reason to throttle that was seen at any moment."""
    if not readings:
        return None

    def middle(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return median(known) if known else None

    return Sample(
        clock_mhz=middle([r.clock_mhz for r in readings]),
        power_w=middle([r.power_w for r in readings]),
        temperature_c=middle([r.temperature_c for r in readings]),
        throttle=tuple(sorted({reason for r in readings for reason in r.throttle})),
        readings=len(readings),
    )
