"""One job in flight, as the driver sees it: a channel to the child, the pipe of its output, a socket to its supervisor.

Everything that comes over the channel and the pipe is untrusted bytes. What the supervisor says is not.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from kopt.errors import HarnessError
from kopt.evaluate.server import Server, ServerDied, heard
from kopt.evaluate.worker import channel
from kopt.evaluate.worker.processes import signal_name

Outcome = Literal["ok", "error", "crashed", "timeout", "memory"]
OnAsk = Callable[[dict[str, Any]], dict[str, Any]]

_OUTPUT = 16 << 10
"""Bytes of stdout and stderr that are kept: the last ones."""
_ERROR = 4000
"""Characters of a child's own error that are read."""
_BURIAL = 30.0
"""Seconds the fork server may need to end a job and all it left."""


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


class Job:
    """Runs once. `order` is for the fork server (limits), `request` for the child (what to run on what)."""

    def __init__(
        self, server: Server, order: Mapping[str, Any], request: Mapping[str, Any], on_ask: OnAsk | None
    ) -> None:
        self._server = server
        self._order = order
        self._nonce = secrets.token_hex(16)
        self._request = channel.encode({**request, "nonce": self._nonce})
        self._on_ask = on_ask
        self._reader = channel.Reader()
        self._selector = selectors.DefaultSelector()
        self._pid = 0
        self._began = 0.0
        self._asked = 0.0
        self._answer: dict[str, Any] | None = None
        self._broken = ""
        """Why what came over the channel is no reply."""
        self._end: dict[str, Any] | None = None
        """What the supervisor said when the job was over and all of it gone."""
        self._output = bytearray()

    def run(self) -> Reply:
        """From fork to burial. ServerDied when the fork server goes first."""
        with ExitStack() as here:
            here.enter_context(self._selector)
            self._start(here)
            try:
                self._send(self._request)
                while self._end is None:
                    ready = self._selector.select(self._patience())
                    if not ready:
                        raise ServerDied("it did not end the job at its deadline")
                    for key, _ in ready:
                        key.data()
                self._read_rest()
            except ServerDied:
                raise
            except BaseException:
                self._abandon()
                raise
            self._server.forget(self._pid)
        return self._judge(self._end)

    def _patience(self) -> float:
        """Seconds after which the fork server, which watches the deadline, has itself failed."""
        return max(0.0, self._began + self._asked + float(self._order["deadline"]) + _BURIAL - time.monotonic())

    def _start(self, here: ExitStack) -> None:
        with ExitStack() as there:
            try:
                self._channel, channel_there = socket.socketpair()
                here.enter_context(self._channel)
                there.enter_context(channel_there)
                # Whatever happens here, to the fork server the end of this socket is an order to kill.
                self._supervisor, supervisor_there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                here.enter_context(self._supervisor)
                there.enter_context(supervisor_there)
                self._pipe, output_there = os.pipe()
                here.callback(os.close, self._pipe)
                there.callback(os.close, output_there)
            except OSError as error:
                raise HarnessError(f"cannot open what a worker needs: {error.strerror}") from None
            os.set_blocking(self._pipe, False)
            self._server.order(self._order, (supervisor_there.fileno(), channel_there.fileno(), output_there))
        self._began = time.monotonic()
        self._selector.register(self._supervisor, selectors.EVENT_READ, self._from_supervisor)
        self._selector.register(self._channel, selectors.EVENT_READ, self._from_child)
        self._selector.register(self._pipe, selectors.EVENT_READ, self._from_output)

    def _from_supervisor(self) -> None:
        data = heard(self._supervisor)
        if not data:
            raise ServerDied(self._server.obituary())
        message = channel.parse(data)
        if "pid" in message:
            self._pid = message["pid"]
            self._server.note(self._pid)
        elif "refused" in message:
            raise HarnessError(f"cannot start {self._order['job']}: {message['refused']}")
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
        self._reader.feed(data)
        try:
            while self._answer is None and (message := self._reader.take()) is not None:
                self._take(message)
        except channel.FrameError as error:
            self._broken = str(error)
        if self._answer is not None or self._broken:
            # It has said its last: nothing more is read, and it has no reason to live on.
            self._selector.unregister(self._channel)
            self._tell(b"kill")

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("nonce") != self._nonce:
            raise channel.FrameError("it does not come from the job's own code")
        question = message.get("ask")
        if not isinstance(question, dict):
            self._answer = message
        elif self._on_ask is None:
            self._send(channel.encode({"refused": "nobody answers questions in this job"}))
        else:
            self._tell(b"hold")
            held = time.monotonic()
            answer = channel.encode({"answer": self._on_ask(question)})
            self._asked += time.monotonic() - held
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
        with suppress(BlockingIOError):
            data = os.read(self._pipe, 1 << 16)
            if not data:
                self._selector.unregister(self._pipe)
            self._keep(data)

    def _read_rest(self) -> None:
        """What is left in the pipe: at most what a pipe holds, since whoever could write to it is dead."""
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 1 << 16):
                self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._output += data
        del self._output[:-_OUTPUT]

    def _abandon(self) -> None:
        """End a job that will not be waited for; when this returns nothing of it is left."""
        self._tell(b"kill")
        self._supervisor.settimeout(_BURIAL)
        with suppress(OSError):
            while (data := heard(self._supervisor)) and b'"status"' not in data:
                pass
        self._server.forget(self._pid)

    def _judge(self, end: Mapping[str, Any]) -> Reply:
        seconds, reason = float(end["seconds"]), end["reason"]
        output = self._output.decode(errors="replace")

        def bad(outcome: Outcome, error: str) -> Reply:
            return Reply(outcome, error=error, output=output, seconds=seconds)

        if reason == "memory":
            return bad("memory", f"took more than {self._order['memory'] >> 20} MiB of memory")
        if reason == "disk":
            limit = self._order["disk"] >> 20
            return bad("crashed", f"wrote more than {limit} MiB to disk, or folders too deep to walk")
        if self._broken:
            return bad("crashed", f"unreadable reply: {self._broken}")
        if self._answer is not None:
            return _account(self._answer, output, seconds)
        if reason == "timeout":
            return bad("timeout", f"still running after {self._order['deadline']:g} s")
        if reason == "ask timeout":
            return bad("timeout", f"its questions took more than {self._order['ask_deadline']:g} s to answer")
        return bad("crashed", f"{_how(end['status'])} before it replied")


def _account(answer: Mapping[str, Any], output: str, seconds: float) -> Reply:
    """A child's own account of itself, which may be a forgery: only its form is checked."""
    outcome, value = answer.get("outcome"), answer.get("value", {})
    error, traceback = answer.get("error", ""), answer.get("traceback", "")
    texts = isinstance(error, str) and isinstance(traceback, str)
    if outcome not in ("ok", "error", "crashed", "memory") or not isinstance(value, dict) or not texts:
        return Reply("crashed", error="unreadable reply: unknown form", output=output, seconds=seconds)
    error = "".join(c if c.isprintable() else " " for c in error[:_ERROR])
    return Reply(outcome, value, " ".join(error.split())[:600], traceback[-_OUTPUT:], output, seconds)


def _how(status: int) -> str:
    """How a process ended, from its wait status."""
    if not os.WIFSIGNALED(status):
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
    return f"died of {signal_name(os.WTERMSIG(status))}"
