"""control.sock in a live run's folder: others reach the run's one writer through it, a JSON object a line.

The folder's owner alone may connect. Untrusted workers cannot: they have no sockets.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_core import from_json

from kopt.errors import HarnessError, KoptError, UsageError
from kopt.interact.visitor import Origin, Served, Visitor
from kopt.session import Session
from kopt.text import line

FILE = "control.sock"
LARGEST = 4 << 20
"""Bytes of one message: twenty times the largest source."""
VISITORS = 32
"""Connections served at a time; each costs a thread and a descriptor of the run's own."""
CONNECT = 5.0
"""Seconds to wait for a run that listens to answer a greeting."""

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
"""What accept may fail with although the next one may well succeed."""
_FULL = json.dumps({"error": f"{VISITORS} others are connected to this run; try again later"}).encode() + b"\n"


class Control:
    """Listens while a run is live; a context manager. Each caller has a thread, and waits for its turn to evaluate."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._path = session.run.folder / FILE
        self._listener: socket.socket | None = None
        self._acceptor = threading.Thread(target=self._accept, name="control", daemon=True)
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        # Whoever holds the journal owns the folder: a socket that lies there is a dead process's.
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        try:
            with short(self._path) as address:
                listener.bind(address)
            self._path.chmod(0o600)
            listener.listen(16)
        except OSError as error:
            # Some file systems have no sockets; the run does without visitors.
            listener.close()
            self._session.record("notice", text=f"no control socket: {error.strerror}")
            return self
        self._listener = listener
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            # Whoever came at the last moment is among the threads then, and has begun.
            self._acceptor.join()
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        # What a visitor has begun is finished, and on record, before the journal closes.
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _PASSING:
                    return
                self._closing.wait(0.1)
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) >= VISITORS:
                with connection, contextlib.suppress(OSError):
                    connection.setblocking(False)
                    connection.sendall(_FULL)
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="visitor", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        visitors: dict[Origin, Visitor] = {}
        connection.settimeout(0.2)
        with connection:
            for message in _lines(connection, self._closing):
                answer = self._answer(message, visitors)
                data = json.dumps(answer).encode() + b"\n"
                with contextlib.suppress(OSError):
                    connection.settimeout(30)
                    connection.sendall(data)
                connection.settimeout(0.2)

    def _answer(self, message: bytes, visitors: dict[Origin, Visitor]) -> dict[str, Any]:
        try:
            asked = from_json(message)  # refuses what nests too deep, and half of a surrogate pair
            operation = asked["op"]
            if operation == "hello":
                run = self._session.run
                return {"run": run.id, "task": run.meta.task, "target": run.meta.target, "pid": os.getpid()}
            origin: Origin = asked.get("origin") if asked.get("origin") in ("agent", "user") else "mcp"
            visitor = visitors.setdefault(origin, Visitor(self._session, origin))
            if operation == "call":
                return visitor.call(str(asked["name"]), dict(asked.get("arguments") or {}))._asdict()
            if operation == "resource":
                return {"text": visitor.resource(str(asked["name"]))}
            return {"error": f"no operation {line(str(operation), 40)!r}"}
        except KoptError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return {"error": f"not a request: {type(error).__name__}: {line(str(error), 120)}"}


class Remote:
    """A backend in another process: a live run, reached through its socket. Thread-safe, one call at a time."""

    def __init__(self, folder: Path, origin: Origin = "mcp") -> None:
        """UsageError when the run is not live."""
        self._folder = folder
        self._origin = origin
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT)
        try:
            with short(folder / FILE) as address:
                self._socket.connect(address)
            self._file = self._socket.makefile("rb")
            self.about = self._ask({"op": "hello"})
        except (OSError, HarnessError) as error:
            self._socket.close()
            raise UsageError(
                f"run {folder.name} is not live: nobody listens at {folder / FILE}; "
                f"kopt resume {folder.name} goes on with it"
            ) from error
        # An evaluation, and the queue before it, take as long as they take.
        self._socket.settimeout(None)

    def call(self, name: str, arguments: dict[str, Any]) -> Served:
        return Served(**self._ask({"op": "call", "name": name, "arguments": arguments, "origin": self._origin}))

    def resource(self, name: str) -> str:
        return str(self._ask({"op": "resource", "name": name})["text"])

    def close(self) -> None:
        self._socket.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            sent = json.dumps(message).encode() + b"\n"
        except (ValueError, RecursionError) as error:
            raise UsageError(f"a call that cannot be written: {error}; nothing was done") from None
        if len(sent) > LARGEST:
            raise UsageError(f"a call of {len(sent):,} bytes; at most {LARGEST:,} are taken, and nothing was done")
        with self._lock:
            try:
                self._socket.sendall(sent)
                data = self._file.readline(LARGEST)
            except OSError as error:
                raise HarnessError(f"run {self._folder.name} went away: {error.strerror or error}") from error
        if not data.endswith(b"\n"):
            raise HarnessError(
                f"run {self._folder.name} went away in the middle of a call; kopt resume goes on with it"
            )
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise UsageError(str(answer["error"]))
        return answer


def _lines(connection: socket.socket, closing: threading.Event) -> Iterator[bytes]:
    """Messages until the peer or the run is done; one that is too long ends the connection."""
    buffer = b""
    while not closing.is_set():
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return
        if not data or len(buffer) > LARGEST:
            return
        buffer += data
        while b"\n" in buffer:
            message, buffer = buffer.split(b"\n", 1)
            yield message


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """The path, or one that means the same and fits the 107 bytes that a socket's address may have."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
