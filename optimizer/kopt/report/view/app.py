"""The server: a list of runs, a page for each, their submissions, comparisons, and a stream of what is new."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from kopt import runs
from kopt.errors import KoptError, UsageError
from kopt.report.collecting import uncollected
from kopt.report.page.render import served
from kopt.report.page.templates import css_hash, sheet
from kopt.report.view.guard import LOOPBACK, POLICY, SAFE, Guard
from kopt.report.view.live import LiveRun, Runs

LOOK = 0.2
"""Seconds between two looks at a journal that somebody follows."""
REST = 1.0
"""Rests of so many times what an update took to render keep a large run from taking a whole core."""
BEAT = 15.0
"""Seconds after which silence is broken, so that a connection that died is noticed."""


def app(workspace: Path, host: str = LOOPBACK[0], closing: Callable[[], bool] = lambda: False) -> Starlette:
    """The ASGI application for one workspace; `closing` says when open streams should end."""
    held = Runs(workspace)

    async def index(request: Request) -> Response:
        return await _html(lambda nonce: sheet("runs.html.j2", found=runs.summaries(workspace), nonce=nonce))

    async def run(request: Request) -> Response:
        found = await run_in_threadpool(held.get, request.path_params["id"])
        n = _submission(request.path_params["n"]) if "n" in request.path_params else None

        def made(nonce: str) -> str:
            with uncollected():
                page = found.page()
                if n is not None:
                    page.following.run.entry(n)
                return served(page, nonce=nonce, live=found.live, open=n)

        return await _html(made)

    async def article(request: Request) -> Response:
        found = await run_in_threadpool(held.get, request.path_params["id"])
        return HTMLResponse(await run_in_threadpool(found.article, _submission(request.path_params["n"])))

    async def events(request: Request) -> Response:
        found = await run_in_threadpool(held.get, request.path_params["id"])
        since = _number(request.headers.get("last-event-id") or request.query_params.get("since"))
        return StreamingResponse(_stream(found, since, closing), media_type="text/event-stream")

    async def compare(request: Request) -> Response:
        from kopt.report import comparison

        names = request.query_params.getlist("run")[:12]
        anyway = request.query_params.get("anyway") == "1"

        def made(nonce: str) -> str:
            folders = [held.get(name).folder for name in dict.fromkeys(names)]
            return sheet("compare.html.j2", nonce=nonce, anyway=anyway, **comparison.page(folders, workspace))

        return await _html(made)

    routes = [
        Route("/", index),
        Route("/compare", compare),
        Route("/runs/{id}", run),
        Route("/runs/{id}/events", events),
        Route("/runs/{id}/{n}", run),
        Route("/runs/{id}/{n}/article", article),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={UsageError: _missing, KoptError: _broken},
    )


async def _html(made: Callable[[str], str]) -> Response:
    """A page with a policy that lets nothing run but our own script."""
    nonce = secrets.token_urlsafe(16)
    text = await run_in_threadpool(made, nonce)
    return HTMLResponse(text, headers={"content-security-policy": POLICY.format(css=css_hash(), nonce=nonce), **SAFE})


async def _stream(found: LiveRun, since: int, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Server-sent events: an update whenever the journal has grown, until the server ends."""
    yield "retry: 1000\n\n"
    quiet, state = 0.0, None
    while not closing():
        live = await run_in_threadpool(lambda: found.live)
        if found.grown or found.seq > since or live != state:
            update = await run_in_threadpool(found.update, since)
            since, state, quiet = update.seq, update.live, 0.0
            yield f"id: {update.seq}\ndata: {json.dumps(update.as_json(), separators=(',', ':'))}\n\n"
            await asyncio.sleep(max(LOOK, REST * found.took))
        else:
            await asyncio.sleep(LOOK)
            quiet += LOOK
            if quiet >= BEAT:
                quiet = 0.0
                yield ": still here\n\n"


def _submission(word: str) -> int:
    """Of a path; starlette's own numbers may be longer than Python reads."""
    if not 0 < len(word) < 16 or not word.isdecimal():
        raise UsageError("that is no number of a submission")
    return int(word)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 16 else 0


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _missing(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=404, headers=SAFE)


async def _broken(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=500, headers=SAFE)


def serve(workspace: Path, *, host: str, port: int, ready: Callable[[str], Any]) -> None:
    """Serve until interrupted; `ready` is told the address once requests are taken.

    UsageError when the address cannot be listened on.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error}; leave --port out for a free one") from error
    shown = f"[{host}]" if ":" in host else host
    server: uvicorn.Server

    def closing() -> bool:
        return server.should_exit

    config = uvicorn.Config(
        app(workspace, host, closing), log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    listener.listen()
    ready(f"http://{shown}:{listener.getsockname()[1]}/")
    with listener:
        server.run(sockets=[listener])
