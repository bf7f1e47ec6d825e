"""The driver's side of the processes in which torch, triton and candidates run. The driver itself imports none of them.

Two fork servers (`worker/zygote.py`), one plain and one with TRITON_INTERPRET=1, because Triton reads that when it is
imported. Each job is one forked child with a deadline and a memory limit; a job without `trusted` also gets every wall
that the kernel offers (`worker/walls.py`). Nothing survives its run.
"""

from __future__ import annotations

import atexit
import os
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kopt.errors import HarnessError, MachineError
from kopt.evaluate.server import Server, ServerDied
from kopt.evaluate.worker import channel, walls
from kopt.machine.resources import cores as usable_cores
from kopt.records import Toolchain

Kind = Literal["compile", "interpret"]
Outcome = Literal["ok", "error", "crashed", "timeout", "memory"]
OnAsk = Callable[[dict[str, Any]], dict[str, Any]]

MEMORY = 2 << 30
"""Bytes a job may hold beyond what the fork server itself does."""
DISK = 2 << 30
"""Bytes an untrusted job may hold on disk."""
ASK_DEADLINE = 600.0
"""Seconds the answers to one job's questions may take in all."""
_OUTPUT = 16 << 10
"""Bytes of stdout and stderr that are kept: the last ones."""


@dataclass(frozen=True)
class Reply:
    """What became of a job. From an untrusted job every word of it is hearsay, except a timeout and a memory limit."""

    outcome: Outcome
    value: dict[str, Any] = field(default_factory=dict)
    """What the job returned; for an error the facts that the exception carries, such as its line."""
    error: str = ""
    """One line, "" when ok."""
    traceback: str = ""
    output: str = ""
    """The last 16 KB of stdout and stderr."""
    seconds: float = 0.0
    """Wall time in the child, without the time its questions took to answer."""

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


class Workers:
    """Runs jobs in forked children. Thread-safe; a context manager; starts its fork servers when first needed."""

    def __init__(self, toolchain_env: Mapping[str, str] | None = None, cores: int | None = None) -> None:
        """`toolchain_env` adds variables, such as PYTHONPATH, to the scrubbed environment of the fork servers."""
        if sys.platform != "linux":
            raise MachineError(f"evaluation needs Linux: Triton does not run on {sys.platform}; reading runs does")
        self.cores = cores or usable_cores()
        self._environment = dict(toolchain_env or {})
        self._servers: dict[Kind, Server] = {}
        self._lock = threading.Lock()
        self._closed = False
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the servers and every job of theirs. Jobs in flight end with HarnessError."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            servers = list(self._servers.values())
            self._servers.clear()
        for server in servers:
            server.close()

    def warm(self, *kinds: Kind) -> None:
        """Begin to start these servers, without waiting for them."""
        for kind in kinds:
            self._server(kind)

    def toolchain(self) -> Toolchain:
        """Versions of what compiles. Starts the compile server; MachineError when torch or triton are missing."""
        return Toolchain(**self._server("compile").ready())

    def walls(self) -> dict[str, str]:
        """Each wall around untrusted jobs and whether this kernel offers it: "up", or "missing: " and why."""
        return walls.probe()

    def run(
        self,
        kind: Kind,
        job: str,
        payload: Mapping[str, Any],
        *,
        folder: Path,
        deadline: float,
        memory: int = MEMORY,
        disk: int = DISK,
        trusted: bool = False,
        on_ask: OnAsk | None = None,
        ask_deadline: float = ASK_DEADLINE,
    ) -> Reply:
        """Run `module:function` as function(payload, folder, ask) in a forked child.

        `folder` is private to the job and the only place where an untrusted one can write. `deadline` is in seconds
        from the fork; the clock stands still while `on_ask` answers, in this thread, because how long a compiler
        queue takes is not the candidate's doing; those waits have their own limit, `ask_deadline`. What `on_ask`
        raises ends the job and is raised here. A bad candidate is a Reply; HarnessError means that kopt is broken.
        """
        order = {
            "folder": str(folder.resolve()),
            "deadline": deadline,
            "ask_deadline": ask_deadline,
            "memory": memory,
            "disk": disk,
            "trusted": trusted,
            # A backstop for the fork server's own watch, never the limit that should bite.
            "cpu_seconds": int(deadline * self.cores) + 60,
        }
        request = {"job": job, "payload": dict(payload)}
        for attempt in (1, 2):
            server = self._server(kind)
            try:
                return _Run(server, order, request, on_ask).reply()
            except ServerDied as death:
                self._retire(kind, server)
                if self._closed:
                    raise HarnessError(f"{job} was stopped: the workers are closed") from None
                if attempt == 2:
                    raise HarnessError(f"the {kind} worker server died twice while it ran {job}: {death}") from None
        raise AssertionError("unreachable")

    def _server(self, kind: Kind) -> Server:
        with self._lock:
            if self._closed:
                raise HarnessError("the workers are closed")
            if kind not in self._servers:
                self._servers[kind] = Server(kind, self._environment)
            return self._servers[kind]

    def _retire(self, kind: Kind, server: Server) -> None:
        with self._lock:
            if self._servers.get(kind) is server:
                del self._servers[kind]
        server.close()


class _Run:
    """One job in flight: the channel to the child, the pipe of its output, the socket to its supervisor."""

    def __init__(
        self, server: Server, order: Mapping[str, Any], request: Mapping[str, Any], on_ask: OnAsk | None
    ) -> None:
        self._server = server
        self._order = order
        self._nonce = secrets.token_hex(16)
        self._request = channel.encode({**request, "nonce": self._nonce})
        self._on_ask = on_ask
        self._reader = channel.Reader()
        self._answer: dict[str, Any] | None = None
        self._broken = ""
        """Why what came over the channel is no reply."""
        self._end: dict[str, Any] | None = None
        self._output = bytearray()

    def reply(self) -> Reply:
        channel_here, channel_there = socket.socketpair()
        supervisor_here, supervisor_there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output_here, output_there = os.pipe()
        os.set_blocking(output_here, False)
        try:
            with channel_there, supervisor_there:
                try:
                    self._server.order(self._order, (supervisor_there.fileno(), channel_there.fileno(), output_there))
                finally:
                    os.close(output_there)
            self._channel, self._supervisor, self._pipe = channel_here, supervisor_here, output_here
            self._attend()
        finally:
            # To the fork server the end of this socket is an order to kill, whatever else happened.
            supervisor_here.close()
            channel_here.close()
            os.close(output_here)
        return self._judge()

    def _attend(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._supervisor, selectors.EVENT_READ, self._from_supervisor)
            selector.register(self._channel, selectors.EVENT_READ, self._from_child)
            selector.register(self._pipe, selectors.EVENT_READ, self._from_output)
            self._send(self._request)
            while self._end is None:
                for key, _ in selector.select():
                    key.data()
        self._drain()

    def _from_supervisor(self) -> None:
        try:
            data = self._supervisor.recv(4096)
        except ConnectionError:
            data = b""
        if not data:
            raise ServerDied(self._server.obituary())
        message = channel.parse(data)
        if "pid" in message:
            self._server.note(message["pid"])
        elif "refused" in message:
            raise HarnessError(f"the worker server cannot start a job: {message['refused']}")
        else:
            self._end = message

    def _from_child(self) -> None:
        try:
            data = self._channel.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._channel)
            return
        try:
            self._reader.feed(data)
            while self._answer is None and not self._broken and (message := self._reader.take()) is not None:
                self._take(message)
        except channel.FrameError as error:
            self._finish(broken=str(error))

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("nonce") != self._nonce:
            self._finish(broken="it does not come from the job's own code")
        elif isinstance(question := message.get("ask"), dict):
            self._serve(question)
        else:
            self._answer = message
            self._finish()

    def _finish(self, broken: str = "") -> None:
        """The child has said its last: nothing more is read, and it has no reason to live on."""
        self._broken = broken
        self._selector.unregister(self._channel)
        self._tell(b"kill")

    def _serve(self, question: dict[str, Any]) -> None:
        if self._on_ask is None:
            self._send(channel.encode({"refused": "nobody answers questions in this job"}))
            return
        self._tell(b"hold")
        answer = channel.encode({"answer": self._on_ask(question)})
        self._tell(b"go")
        self._send(answer)

    def _send(self, frame: bytes) -> None:
        # A child that does not read blocks this for as long as it lives, which its deadline ends.
        with suppress(ConnectionError):  # its end is about to be told
            self._channel.sendall(frame)

    def _tell(self, word: bytes) -> None:
        with suppress(ConnectionError):  # the end is told by what is still to be read
            self._supervisor.send(word)

    def _from_output(self) -> None:
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._pipe)
        self._output += data
        del self._output[:-_OUTPUT]

    def _drain(self) -> None:
        """What is left in the pipe; at most a pipe's capacity, since whoever could write is dead."""
        try:
            while data := os.read(self._pipe, 1 << 16):
                self._output += data
        except BlockingIOError:
            pass
        del self._output[:-_OUTPUT]

    def _judge(self) -> Reply:
        assert self._end is not None
        seconds = float(self._end["seconds"])
        output = self._output.decode(errors="replace")
        reason, answer = self._end["reason"], self._answer
        if answer is None and not self._broken and reason == "timeout":
            return Reply(
                "timeout", error=f"still running after {self._order['deadline']:g} s", output=output, seconds=seconds
            )
        if answer is None and not self._broken and reason == "ask timeout":
            line = f"its questions took more than {self._order['ask_deadline']:g} s to answer"
            return Reply("timeout", error=line, output=output, seconds=seconds)
        if reason == "memory":
            line = f"took more than {self._order['memory'] >> 20} MiB of memory"
            return Reply("memory", error=line, output=output, seconds=seconds)
        if reason == "disk":
            line = f"wrote more than {self._order['disk'] >> 20} MiB into its folder"
            return Reply("crashed", error=line, output=output, seconds=seconds)
        if self._broken:
            return Reply("crashed", error=f"unreadable reply: {self._broken}", output=output, seconds=seconds)
        if answer is None:
            line = f"{_how(self._end['status'])} before it replied"
            return Reply("crashed", error=line, output=output, seconds=seconds)
        return _reply(answer, output, seconds)


def _reply(answer: Mapping[str, Any], output: str, seconds: float) -> Reply:
    """A child's own account, which may be a forgery: only its form is checked."""
    outcome, value = answer.get("outcome"), answer.get("value", {})
    if outcome not in ("ok", "error", "crashed", "memory") or not isinstance(value, dict):
        return Reply("crashed", error="unreadable reply: its form is unknown", output=output, seconds=seconds)
    error = " ".join(str(answer.get("error", "")).split())[:600]
    return Reply(outcome, value, error, str(answer.get("traceback", "")), output, seconds)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        import signal

        number = os.WTERMSIG(status)
        return f"died of {signal.Signals(number).name if number in list(signal.Signals) else f'signal {number}'}"
    return f"exited with status {os.WEXITSTATUS(status)}"
