"""Runners as the judge sees them: started by the fork server, spoken to with deadlines, killed with all their kin."""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kopt.errors import HarnessError
from kopt.evaluate.server import Server, heard
from kopt.evaluate.worker import channel
from kopt.evaluate.worker.disk import remove
from kopt.evaluate.worker.processes import signal_name
from kopt.judge import protocol, shelf
from kopt.judge.layout import Layout
from kopt.judge.runner import SOCKET
from kopt.records import Finding, Status
from kopt.text import line

Mode = Literal["eager", "graph"]
_TELL = 1e-3
"""Seconds between looks at whether a runner that is waited for still lives."""
_MEMORY = 16 << 30
"""Bytes of host memory a runner may hold; CUDA's own share of it is about 1 GiB."""
_DISK = 2 << 30
"""Bytes it may have on disk, each file and folder counted as 16 KiB at least."""
_MESSAGE = 64 << 10
"""Bytes that a runner has to say at most."""
_LIFE = 86400.0
"""Seconds. A judge ends its runners by itself, and the fork server ends them with the judge."""
_HIRE_S = 60.0
"""Seconds until it has mapped the memory that it is given."""
_COMMON = 60.0
"""Seconds for what every process would else compile."""
_STAGES = {
    "start": "during start", "import": "when imported", "setup": "during setup", "call": "when called",
    "recipe": "during recipe",
}  # fmt: skip
"""Where a runner may say that it failed."""
_LIMITS = {
    "memory": f"it took more than {_MEMORY >> 30} GiB of the host's memory",
    "disk": f"it wrote more than {_DISK >> 30} GiB to disk, or folders too deep to walk",
}  # fmt: skip


class RunnerFailed(Exception):
    """The runner did not do what it was told; `finding` says what that means for the candidate."""

    def __init__(self, label: str, finding: Finding) -> None:
        super().__init__(str(finding))
        self.label, self.finding = label, finding


class Zygote:
    """The fork server of this judge. It starts before the judge touches its device and shares nothing secret."""

    def __init__(self, kind: str, environment: Mapping[str, str]) -> None:
        self._server = Server(kind, environment)

    def ready(self) -> dict[str, str]:
        """Wait for it; the versions of its toolchain."""
        return self._server.ready()

    def start(
        self, folder: Path, deadline: float, output: int, job: str = "kopt.judge.runner:serve"
    ) -> tuple[socket.socket, socket.socket, int]:
        """A child for one job: its supervisor, its channel, its pid."""
        supervisor, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        order = {
            "job": job,
            "folder": str(folder),
            "trusted": True,  # the runner raises its own walls: the ordinary ones break CUDA
            "cpu_seconds": None,
            "deadline": deadline,
            "ask_deadline": 1.0,
            "memory": _MEMORY,
            "disk": _DISK,
        }
        with far, theirs:
            self._server.order(order, (far.fileno(), theirs.fileno(), output))
        supervisor.settimeout(30.0)
        answer = json.loads(heard(supervisor) or b'{"refused": "the fork server is gone"}')
        if "refused" in answer:
            raise HarnessError(f"no runner: {answer['refused']}")
        self._server.note(answer["pid"])
        return supervisor, mine, int(answer["pid"])

    def common(self, folder: Path) -> bool:
        """Have what every process compiles compiled once, in a folder; whether that worked."""
        with tempfile.TemporaryFile() as output:
            supervisor, job, pid = self.start(folder, _COMMON, output.fileno(), "kopt.judge.binaries:common")
            with supervisor, job:
                job.sendall(channel.encode({"payload": {}, "nonce": "-"}))
                try:
                    return bool(channel.receive(job, channel.Reader()).get("outcome") == "ok")
                except (OSError, EOFError):
                    return False
                finally:
                    self.forget(pid)

    def forget(self, pid: int) -> None:
        self._server.forget(pid)

    def close(self) -> None:
        self._server.close()


class Runner:
    """One process, and from `hire` on with one kernel in it."""

    job = "kopt.judge.runner:serve"
    label = "runner"

    def __init__(self, zygote: Zygote, backend: str, *, trusted: bool = False) -> None:
        """Start it: it raises its walls, unless it is `trusted`, wakes its device, and waits for `hire`."""
        self._zygote = zygote
        self.walls: dict[str, str] = {}
        self._ended: Mapping[str, Any] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="kopt-runner-"))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._folder / SOCKET))
        listener.listen(1)
        listener.settimeout(30.0)
        self._orders, orders_fd = protocol.orders()
        self._reports, reports_fd = protocol.reports()
        output = os.open(self._folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._supervisor, self._job, self.pid = zygote.start(self._folder, _LIFE, output, self.job)
            payload = {"backend": backend, "trusted": trusted}
            self._job.sendall(channel.encode({"payload": payload, "nonce": "-"}))
            try:
                self._sock, _ = listener.accept()
            except TimeoutError:
                raise HarnessError("a runner did not connect within 30 s") from None
            socket.send_fds(self._sock, [b"."], [orders_fd, reports_fd])
        finally:
            listener.close()
            for fd in (orders_fd, reports_fd, output):
                os.close(fd)
        self._reader = channel.Reader()
        self._number = 0

    def awake(self, seconds: float) -> None:
        """Wait until it is; RunnerFailed, which is no candidate's doing."""
        walls = self._expect("awake", seconds, "wake up").get("walls")
        self.walls = {line(name, 40): said(walls, name) for name in walls} if isinstance(walls, dict) else {}

    @property
    def quiet(self) -> bool:
        """Whether it has nothing to say, as befits one that waits: neither words nor that it is gone."""
        return not select.select([self._sock], [], [], 0)[0]

    def hire(self, label: str, payload: Mapping[str, Any], arena_fd: int, caches: Sequence[Path] = ()) -> None:
        """Give it memory and tell it which kernel it is for; `ready` then waits until that is imported.

        RunnerFailed is no candidate's doing here: nothing of it has run yet.
        `caches` are Triton caches to start with, copied: what a candidate writes there is seen by nobody else.
        """
        self.label = label
        for cache in caches:
            shelf.copy(cache, self._folder / shelf.CACHE)
        shelf.hand_over(self._folder / shelf.CACHE, self._folder)
        try:
            socket.send_fds(self._sock, [b"."], [arena_fd])
        except OSError:
            raise self._died() from None
        self._tell(payload)
        self._expect("hired", _HIRE_S, "take the work")

    def ready(self, seconds: float) -> None:
        self._expect("ready", seconds, "import")

    def setup(self, layout: Layout, seconds: float) -> None:
        self._tell({"op": "setup", "layout": layout.model_dump(mode="json")})
        self._expect("ready", seconds, "setup")

    def arm(
        self, calls: Sequence[Sequence[int]], mode: Mode, seconds: float, repeat: int = 1, busy_us: float = 0.0
    ) -> bool:
        """Describe the next batch; False when the kernel cannot be captured in a graph, and `refusal` says why.

        A graph is captured once, however often it is replayed. Without calls, the device is kept busy for `busy_us`.
        """
        if mode != "graph":
            calls, repeat = [*calls] * repeat, 1
        self._number += 1
        self._echoes = mode != "graph" and len(calls) > 0
        self._nonces = protocol.nonces(max(1, len(calls)))
        self._tell({"op": "batch", "number": self._number, "mode": mode, "calls": [list(c) for c in calls],
                    "repeat": repeat, "busy_us": busy_us})  # fmt: skip
        answer = self._expect("armed", seconds, "prepare the batch")
        self.refusal = said(answer, "why")
        return bool(answer["armed"])

    def alert(self, seconds: float) -> None:
        """Have it wake up: one call, on inputs that do not count."""
        self._orders[protocol.ALERT] = self._number
        self._wait(protocol.READY, self._number, seconds, "get ready")

    def go(self) -> None:
        """Nonces first, then the word that everything waits for."""
        self._orders.fill(protocol.RING, self._nonces)
        self._orders[protocol.GO] = self._number

    def done(self, seconds: float) -> None:
        """Wait until the runner says that it is done; who is late is told with how far it says it came."""
        self._wait(protocol.DONE, self._nonces[-1], seconds, "finish", self._progress)

    def spent_us(self) -> float:
        """Of the last batch, which was without calls: by the runner's word, which only the judge's own is asked for."""
        return self._reports[protocol.SPENT] / 1e3

    def _progress(self) -> str:
        if not self._echoes:
            return ""
        seen = self._reports[protocol.PROGRESS]
        made, calls = self._nonces.index(seen) + 1 if seen in self._nonces else 0, len(self._nonces)
        if made == calls:
            return f", by its word after the last of {calls} calls had returned: the device has not ended them"
        return f", by its word with {made} of {calls} calls returned"

    def kill(self) -> None:
        """End it and everything it started; returns when nothing is left, HarnessError when that takes too long."""
        if not self._folder.exists():
            return
        try:
            with suppress(OSError):
                self._supervisor.send(b"kill")
            self._end(30.0)
        except TimeoutError:
            raise HarnessError(f"runner {self.pid} cannot be killed: is the device hung?") from None
        finally:
            for sock in (self._supervisor, self._job, self._sock):
                sock.close()
            self._zygote.forget(self.pid)
            remove(self._folder)

    def _end(self, seconds: float) -> Mapping[str, Any]:
        """How it ended, once the fork server has buried everything it started; TimeoutError."""
        self._supervisor.settimeout(seconds)
        while self._ended is None:
            answer = json.loads(heard(self._supervisor) or b'{"status": null}')
            if "status" in answer:
                self._ended = answer
        return self._ended

    def _wait(self, word: int, value: int, seconds: float, what: str, further: Callable[[], str] = lambda: "") -> None:
        try:
            self._reports.wait(word, value, seconds, alive=self._alive)
        except protocol.Timeout:
            message = f"did not {what} within {seconds:g} s{further()}"
            raise self._fail(Status.TIMEOUT, "judge.deadline", message) from None

    _looked = 0.0

    def _alive(self) -> None:
        now = time.monotonic()
        if now - self._looked < _TELL:
            return
        self._looked = now
        if select.select([self._sock], [], [], 0)[0]:
            self._receive(time.monotonic() + 5.0, "finish")
            raise self._fail(Status.CRASHED, "judge.protocol", "spoke out of turn")

    def _expect(self, key: str, seconds: float, what: str) -> dict[str, Any]:
        message = self._receive(time.monotonic() + seconds, what)
        if key not in message:
            raise self._fail(Status.CRASHED, "judge.protocol", f"answered something else when told to {what}")
        return message

    def _receive(self, end: float, what: str) -> dict[str, Any]:
        came = 0
        while True:
            try:
                message = self._reader.take()
            except channel.FrameError as error:
                raise self._fail(Status.CRASHED, "judge.protocol", f"sent {error}") from None
            if message is not None:
                break
            left = end - time.monotonic()
            if left <= 0:
                raise self._fail(Status.TIMEOUT, "judge.deadline", f"did not {what} in time")
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                raise self._died()
            came += len(data)
            if came > _MESSAGE:
                raise self._fail(Status.CRASHED, "judge.protocol", f"sent more than {_MESSAGE >> 10} KiB at once")
            self._reader.feed(data)
        if "failed" in message:
            raise self._confessed(message)
        return message

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._sock.settimeout(10.0)
        try:
            self._sock.sendall(channel.encode(message))
        except OSError:
            raise self._died() from None

    def _confessed(self, message: Mapping[str, Any]) -> RunnerFailed:
        kind, stage = said(message, "kind"), said(message, "failed")
        if stage not in _STAGES:
            return self._fail(Status.CRASHED, "judge.protocol", "says that it failed where it cannot")
        compile_error = kind in ("SyntaxError", "CompilationError", "PTXASError", "OutOfResources")
        status = Status.COMPILE_ERROR if compile_error else Status.CRASHED
        what = f"{_STAGES[stage]}: {said(message, 'error')}"
        return self._fail(status, f"judge.{stage}", what, said(message, "place", 40))

    def _died(self) -> RunnerFailed:
        try:
            ended = self._end(10.0)
        except TimeoutError:
            ended = {}
        status, reason = ended.get("status"), ended.get("reason")
        if reason:
            status = Status.TIMEOUT if reason == "timeout" else Status.CRASHED
            return self._fail(status, "judge.died", f"was killed: {_LIMITS.get(reason, reason)}")
        if status is not None and os.WIFSIGNALED(status):
            how = f"died of {signal_name(os.WTERMSIG(status))}"
        else:
            how = (
                "left without an answer"
                if status is None
                else f"left with exit code {os.waitstatus_to_exitcode(status)}"
            )
        return self._fail(Status.CRASHED, "judge.died", how)

    def _fail(self, status: Status, rule: str, what: str, place: str = "") -> RunnerFailed:
        return RunnerFailed(
            self.label, Finding(rule=rule, message=f"the {self.label} {what}", status=status, place=place)
        )


def said(message: Mapping[str, Any], key: str, width: int = 400) -> str:
    """A runner's words under this key as a line that can be shown; "" where they are no text."""
    value = message.get(key)
    return line(value[: 4 * width], width) if isinstance(value, str) else ""
