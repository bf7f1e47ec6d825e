"""The driver's side of the processes in which torch, triton and candidates run. The driver itself imports none of them.

Two fork servers (`worker/zygote.py`), one plain and one with TRITON_INTERPRET=1, because Triton reads that when it is
imported. Each job is one forked child with a deadline and a memory limit; a job without `trusted` also gets every wall
that the kernel offers (`worker/walls.py`). Nothing survives its run.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kopt.errors import HarnessError, MachineError
from kopt.evaluate.job import Job, OnAsk, Outcome, Reply
from kopt.evaluate.server import Server, ServerDied
from kopt.evaluate.worker import walls
from kopt.machine.resources import cores as usable_cores
from kopt.records import Toolchain

__all__ = ["Kind", "OnAsk", "Outcome", "Reply", "Workers"]

Kind = Literal["compile", "interpret"]

MEMORY = 2 << 30
"""Bytes a job may hold beyond what the fork server itself does."""
DISK = 2 << 30
"""Bytes a job may hold on disk."""
ASK_DEADLINE = 600.0
"""Seconds the answers to one job's questions may take in all."""


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
        self._jobs = 0
        self._closed = False
        self._owner = os.getpid()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the servers and every job of theirs. Jobs in flight end with HarnessError."""
        atexit.unregister(self.close)
        if os.getpid() != self._owner:  # a forked copy of the driver owns nothing
            return
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

    @property
    def idle(self) -> int:
        """Processors that no job in flight has to itself."""
        return max(0, self.cores - self._jobs)

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

        `folder` is private to the job and the only place where an untrusted one can write; afterwards it holds plain
        files and folders whose content is the candidate's word: not to be unpickled, and no place for a trusted job to
        work in. `deadline` is in seconds from the fork; the clock stands still while `on_ask` answers, in this thread,
        because how long a compiler queue takes is not the candidate's doing; those waits have their own limit,
        `ask_deadline`. What `on_ask` raises ends the job and is raised here. A bad candidate is a Reply; HarnessError
        means that kopt is broken. A job whose server dies is run once more, so on_ask may hear its questions twice.
        """
        if not folder.is_dir():
            raise HarnessError(f"{folder} is no folder for a job to work in")
        order = {
            "job": job,
            "folder": str(folder.resolve()),
            "deadline": deadline,
            "ask_deadline": ask_deadline,
            "memory": memory,
            "disk": disk,
            "trusted": trusted,
            # A backstop for the fork server's own watch, never the limit that should bite.
            "cpu_seconds": int(deadline * self.cores) + 60,
        }
        request = {"payload": dict(payload)}
        for attempt in (1, 2):
            server = self._server(kind)
            with self._lock:
                self._jobs += 1
            try:
                return Job(server, order, request, on_ask).run()
            except ServerDied as death:
                self._retire(kind, server)
                if self._closed:
                    raise HarnessError(f"{job} was stopped: the workers are closed") from None
                if attempt == 2:
                    raise HarnessError(f"the {kind} worker server died twice while it ran {job}: {death}") from None
            finally:
                with self._lock:
                    self._jobs -= 1
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
