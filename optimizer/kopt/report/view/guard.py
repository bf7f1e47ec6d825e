"""Who may ask: this machine's own browser, for pages it opened itself. Nothing else gets an answer.

A web page elsewhere can make a browser send requests to this server, or resolve a name of its own to 127.0.0.1 (DNS
rebinding). Browsers say so in headers that a page cannot forge: Host, Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
POLICY = (
    "default-src 'none'; style-src '{css}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Guard:
    """ASGI middleware. `host` is the address listened on: a wildcard accepts any address literal, never a name."""

    def __init__(self, app: ASGIApp, host: str = LOOPBACK[0]) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if reason := self._refusal(scope):
            await PlainTextResponse(f"refused: {reason}\n", status_code=403, headers=SAFE)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return "this server only shows things"
        host = headers.get("host", "")
        if not self._allowed(host):
            return "the Host header names another machine; use the address that kopt view printed"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "the request comes from another site"
        # "none" is an address typed or opened from a terminal. Browsers before 2023 may not send the header.
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "the request comes from another site"
        return ""

    def _allowed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in (*LOOPBACK, self.host):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.host in ("0.0.0.0", "::")
