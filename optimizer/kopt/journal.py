"""The append-only log of a run: one JSON event a line, fsynced. State is its replay (kopt/run.py).

One writer at a time, held by a lock on the file. A line that a crash tore off at the end is dropped when the next
writer opens the journal; a broken line anywhere else is refused with its number: dropping it would lose work silently.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from kopt.errors import HarnessError, UsageError

FILE = "journal.jsonl"
LATEST = 253402300799
"""The last second of the year 9999, as Unix time: dates end there."""


class Event(NamedTuple):
    """One line. `offset` and `size` locate it in the file, so that heavy payloads can be read again when needed."""

    seq: int
    time: float
    """Unix time."""
    elapsed: float
    """Seconds the run had been active when this was written; pauses between processes do not count."""
    type: str
    payload: dict[str, Any]
    offset: int
    size: int


def read(path: Path, offset: int = 0, seq: int = 0) -> Iterator[Event]:
    """Every whole event of a journal, in order; HarnessError names the line of a broken one.

    `offset` and `seq` are where an earlier reading ended: its last event's end, and its number.
    """
    from pydantic_core import from_json

    try:
        file = path.open("rb")
    except OSError as error:
        raise HarnessError(f"cannot read {path}: {error.strerror}") from error
    with file:
        file.seek(offset)
        for number, line in enumerate(file, seq + 1):
            if not line.endswith(b"\n"):
                return  # torn by a crash in the middle of a write
            try:
                payload = from_json(line)
                event = Event(
                    payload.pop("seq"), payload.pop("time"), payload.pop("elapsed"), payload.pop("type"), payload,
                    offset, len(line),
                )  # fmt: skip
                moment(event.time), moment(event.elapsed)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise HarnessError(
                    f"{path}: line {number} is not a journal event ({error}); restore the file from a copy, "
                    f"kopt will not guess what that line said"
                ) from error
            if event.seq != number:
                raise HarnessError(
                    f"{path}: line {number} carries seq {event.seq}: a line was lost or repeated before it"
                )
            yield event
            offset += len(line)


def read_at(path: Path, offset: int, size: int) -> dict[str, Any]:
    """The payload of one event, read again from its place in the file."""
    from pydantic_core import from_json

    with path.open("rb") as file:
        file.seek(offset)
        return dict(from_json(file.read(size)))


def moment(value: Any) -> float:
    """A time in seconds, of a run or of the world; ValueError for what is none, or is beyond any calendar."""
    if not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise ValueError(f"{str(value)[:40]!r} is not a time in seconds")
    return float(value)


def word(payload: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A text of a payload; KeyError without it and without `default`, TypeError when it is something else."""
    value = payload[key] if default is None else payload.get(key, default)
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, not text")
    return value


def amount(payload: Mapping[str, Any], key: str) -> Any:
    """A number of a payload; 0 when it is left out or null, TypeError when it is something else."""
    value = payload.get(key)
    if value is None:
        return 0
    if not isinstance(value, int | float):
        raise TypeError(f"{key} is {value!r}, not a number")
    return value


class Journal:
    """The one writer of a run's journal.

    Raises UsageError when another process holds it, HarnessError when the disk does not take a line or nobody could
    read it again; what was written before stays whole in every case.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise HarnessError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"run {path.parent.name} is being written by another process; wait for it, or follow it with kopt show"
            ) from error
        self._seq, self._end, self._elapsed = 0, 0, 0.0
        for event in read(path):
            self._seq, self._end, self._elapsed = event.seq, event.offset + event.size, event.elapsed
        self._file.truncate(self._end)
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Active seconds of the run, over all its processes."""
        return self._elapsed + time.monotonic() - self._started

    def append(self, type: str, **payload: Any) -> Event:
        from pydantic_core import from_json

        event = {
            "seq": self._seq + 1,
            "time": round(time.time(), 3),
            "elapsed": round(self.elapsed, 3),
            "type": type,
            **payload,
        }
        try:
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
            from_json(line)  # which nests less deep than what wrote it: one such line would end all reading
        except (ValueError, TypeError, RecursionError) as error:
            raise HarnessError(f"{self.path}: a {type} event cannot be written: {error}") from error
        offset, end = self._end, self._end + len(line)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
            self._seq, self._end = self._seq + 1, end
        except OSError as error:
            self._restore()
            raise HarnessError(
                f"cannot write {self.path}: {error.strerror}; what was written before is whole: kopt resume goes on"
            ) from error
        except BaseException:  # a second Ctrl-C, and visitors may still have something to write
            self._restore()
            raise
        return Event(event["seq"], event["time"], event["elapsed"], type, payload, offset, len(line))

    def _restore(self) -> None:
        """Forget a line that was not written whole, or of which nobody will learn that it was."""
        with contextlib.suppress(OSError):  # if even this fails, the next writer drops the torn line
            self._file.truncate(self._end)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
