"""The process beside the kernel: it imports it and calls it when told. Everything it says is hearsay.

It wakes up before it knows which kernel it is for, while another runner may still be at work, and goes no further until
it is told.

Our code here is correct until the candidate is imported and worth nothing after: what it reports decides no verdict.
It runs as a job of the fork server, behind walls of its own, and talks to the judge over a socket in its folder.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from kopt.evaluate import hooks
from kopt.evaluate.worker import channel
from kopt.evaluate.worker.candidate import FILE, MODULE
from kopt.judge import confine, protocol, shelf
from kopt.judge.backends import RunnerSide, Tensor, runner_side
from kopt.judge.layout import Layout, views
from kopt.records import Task

SOCKET = "judge.sock"
_WAIT = 900.0
"""Seconds. The judge's own deadlines are shorter; this only ends a runner that was forgotten."""
_NAP = 5e-5

Entry = Callable[..., object]


def serve(payload: dict[str, Any], folder: Path, ask: object) -> dict[str, Any]:
    """A job of the fork server: serve one judge until it hangs up."""
    attend(Serving, payload, folder)
    return {}


def attend(kind: type[Serving], payload: dict[str, Any], folder: Path) -> None:
    """Connect to the judge and obey it, behind walls."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(folder / SOCKET))
    _, fds, _, _ = socket.recv_fds(sock, 1, 2)
    runner = kind(sock, payload, fds)
    try:
        runner.wake(confine.up(payload, folder))
        runner.prepare(folder)
        while runner.obey():
            pass
    except EOFError:
        pass  # the judge is done with us
    except BaseException as error:
        runner.confess(error)


class Serving:
    """One judge's runner."""

    def __init__(self, sock: socket.socket, payload: Mapping[str, Any], fds: list[int]) -> None:
        self._sock, self._reader, self._payload = sock, channel.Reader(), payload
        self._orders, self._reports = protocol.attach_orders(fds[0]), protocol.attach_reports(fds[1])
        self._stage = "start"
        self._batch = 0
        self._tensors: list[tuple[str, list[Tensor]]] = []

    def wake(self, walls: Mapping[str, str]) -> None:
        """What takes time and touches no candidate: the device's context."""
        self._backend: RunnerSide = runner_side(self._payload["backend"])
        self._backend.wake()
        self.send({"awake": True, "walls": dict(walls)})

    def prepare(self, folder: Path) -> None:
        """Wait to be told which kernel, and import it."""
        _, fds, _, _ = socket.recv_fds(self._sock, 1, 1)
        if not fds:
            raise EOFError
        payload = self._payload = {**self._payload, **self.receive()}
        self._arena = self._backend.attach(fds[0], payload["arena_bytes"])
        os.close(fds[0])
        shelf.adopt(folder / shelf.CACHE)
        self.send({"hired": True})
        self._stage = "import"
        task = Task.model_validate(payload["task"])
        self._order = [t.name for t in task.tensors]
        self._entry = self.entry(folder, task)
        self._parameters = dict(payload["parameters"])
        self.send({"ready": True})

    def entry(self, folder: Path, task: Task) -> Entry:
        """What a call calls."""
        source = self._payload["source"]
        if source is None:
            baseline: Entry = getattr(hooks.load(task), "baseline", _no_entry)
            return baseline
        entry: Entry = getattr(load(source, folder), task.entry)
        return entry

    def receive(self) -> dict[str, Any]:
        return channel.receive(self._sock, self._reader)

    def obey(self) -> bool:
        """Do what the judge says next; False when it is nothing that is known here."""
        return self.act(self.receive())

    def act(self, message: Mapping[str, Any]) -> bool:
        if message["op"] == "setup":
            self._stage = "setup"
            self._setup(Layout.model_validate(message["layout"]))
            self.send({"ready": True})
        elif message["op"] == "batch":
            self._stage = "call"
            self._run(message)
        else:
            return False
        return True

    def _setup(self, layout: Layout) -> None:
        found = {block.name: views(self._arena, block) for block in (*layout.inputs, *layout.outputs)}
        self._tensors = [(name, found[name]) for name in self._order]

    def _run(self, message: Mapping[str, Any]) -> None:
        """Prepare a batch, say so, and do it when GO comes."""
        number, entry, parameters = message["number"], self._entry, self._parameters
        # A call is the index of a copy for every tensor argument.
        calls = [[copies[i] for (_, copies), i in zip(self._tensors, call, strict=True)] for call in message["calls"]]
        orders, reports, backend = self._orders, self._reports, self._backend
        replay = None
        if message["mode"] == "graph":

            def every() -> None:
                for args in calls:
                    entry(*args, **parameters)

            replay = self.capture(every)
            if replay is None:
                self.send({"armed": False, "why": self._backend.refusal})
                return
        self.send({"armed": True})
        orders.wait(protocol.ALERT, number, _WAIT, nap=_NAP)
        backend.touch()
        if calls:
            # One call on the old inputs: after a rest the first launch takes the host hundreds of microseconds.
            entry(*calls[0], **parameters)
            backend.synchronize()
        reports[protocol.READY] = number
        orders.wait(protocol.GO, number, _WAIT)
        if replay is not None:
            for _ in range(message["repeat"]):
                replay()
        elif calls:
            ring = protocol.RING
            for i, args in enumerate(calls):
                entry(*args, **parameters)
                reports[protocol.PROGRESS] = orders[ring + i]
        else:
            spent = backend.busy(message["busy_us"])
        backend.settle()
        if not calls:
            reports.fill(protocol.SPENT, [round(1e3 * spent())])
        reports[protocol.DONE] = orders[protocol.RING + max(0, len(calls) - 1)]

    def capture(self, calls: Callable[[], None]) -> Callable[[], None] | None:
        """The calls without their host code, or None where they cannot be had so."""
        return self._backend.capture(calls)

    def confess(self, error: BaseException) -> None:
        """Tell the judge what went wrong; it decides what to make of it."""
        line = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        place = next((f"line {f.lineno}" for f in reversed(inspect.trace()) if Path(f.filename).name == FILE), "")
        with suppress(OSError):
            self.send({"failed": self._stage, "error": line, "kind": type(error).__name__, "place": place})

    def send(self, message: Mapping[str, Any]) -> None:
        self._sock.sendall(channel.encode(message))


def load(source: str, folder: Path) -> ModuleType:
    """Import a source. It must lie in a file: Triton reads the source of its kernels."""
    path = folder / FILE
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _no_entry(*args: object, **parameters: object) -> None:
    raise RuntimeError("this task has no baseline")
