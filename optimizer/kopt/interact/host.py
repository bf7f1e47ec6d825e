"""The run behind an MCP server: a live one in another process, or one of its own that lasts as long as its client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from kopt.errors import HarnessError, KoptError, UsageError
from kopt.interact.mcp import serve
from kopt.interact.socket import Remote
from kopt.interact.visitor import Backend, Origin, Visitor
from kopt.propose import Proposer
from kopt.session import Session, Stop


class Host:
    """A proposer that proposes nothing: the run belongs to the MCP client, and lasts until it leaves."""

    def __init__(self) -> None:
        self.session: Future[Session] = Future()
        self._left: Future[None] = Future()

    def drive(self, session: Session) -> None:
        self.session.set_result(session)
        while True:
            try:
                self._left.result(timeout=0.5)
                return
            except TimeoutError:
                # A spent budget is answered call by call; a request to stop ends the run.
                if session.stopping:
                    raise Stop("stopped by request") from None

    @property
    def left(self) -> bool:
        return self._left.done()

    def leave(self) -> None:
        if not self.left:
            self._left.set_result(None)


def join(folder: Path, origin: Origin) -> None:
    """Serve a live run until the client leaves; UsageError when nobody listens there."""
    remote = Remote(folder, origin)
    backend: Future[Backend] = Future()
    backend.set_result(remote)
    try:
        serve(backend)
    finally:
        remote.close()


def own(open_run: Callable[[Proposer], object]) -> None:
    """Serve a run of our own: `open_run` starts or resumes it with the proposer it is given, and returns at its end.

    It is opened by the first call that needs it: a client that only looks at the tools is answered before a compiler is
    loaded, and leaves no run behind.
    """
    backend: Future[Backend] = Future()
    host = Host()

    def ready(session: Future[Session]) -> None:
        if session.exception() is None:
            backend.set_result(Visitor(session.result(), "mcp"))

    asked = threading.Event()

    def run() -> None:
        asked.wait()
        if host.left:
            return
        try:
            open_run(host)
        except KoptError as error:
            failure = error
        except Exception as error:
            failure = HarnessError(f"kopt broke: {type(error).__name__}: {error}")
        else:
            failure = UsageError("the run has ended")
        if not backend.done():
            backend.set_exception(failure)

    host.session.add_done_callback(ready)
    thread = threading.Thread(target=run, name="run")
    try:
        serve(backend, on_ready=thread.start, on_asked=asked.set)
    finally:
        host.leave()
        asked.set()
        if thread.ident is not None:
            thread.join()
