"""Real HTTP servers on loopback that speak two providers' wire formats and misbehave on demand.

A script is a list of steps, one a request, the last one repeated. A step is what to say (`say`) or how to fail.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

Step = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """One request: remembered, then handed to the next step of the script."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            step = self.server.script[min(len(self.server.requests), len(self.server.script)) - 1]
        try:
            step(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass

    def stream(self, events: list[tuple[str, Any]], *, named: bool, cut: bool = False, pause: float = 0.0) -> None:
        """Server-sent events; `cut` drops the connection before the last half of them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i, (name, data) in enumerate(events):
            if cut and i >= len(events) // 2:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            text = data if isinstance(data, str) else json.dumps(data)
            line = (f"event: {name}\n" if named else "") + f"data: {text}\n\n"
            self.wfile.write(f"{len(line.encode()):x}\r\n{line}\r\n".encode())
            self.wfile.flush()
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")

    def fail(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: list[Step]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


@contextmanager
def serving(*script: Step, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """`tls` is a certificate and its key."""
    server = Server(list(script))
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of one's own")])
    now, day = datetime.now(UTC), timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pkcs8, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, open_))
    return folder / "certificate.pem", folder / "key.pem"


Call = tuple[str, Any]
"""Name and arguments, as a dictionary or as the text that a confused model would write."""


def say(text: str = "", *calls: Call, finish: str | None = None, cut: bool = False, pause: float = 0.0) -> Step:
    """A streamed reply in whichever format the request's path asks for."""

    def step(handler: Handler, body: dict[str, Any]) -> None:
        if handler.path.endswith("/messages"):
            handler.stream(_anthropic(text, calls, finish), named=True, cut=cut, pause=pause)
        else:
            handler.stream(_openai(text, calls, finish), named=False, cut=cut, pause=pause)

    return step


def fail(status: int, message: str, headers: dict[str, str] | None = None) -> Step:
    def step(handler: Handler, body: dict[str, Any]) -> None:
        handler.fail(status, {"error": {"message": message, "type": "error"}, "type": "error"}, headers)

    return step


def garbage(text: str = "{nonsense") -> Step:
    return lambda handler, body: handler.stream([("x", text), ("x", "[DONE]")], named=False)


def silence(seconds: float) -> Step:
    """Headers and one token, then nothing."""

    def step(handler: Handler, body: dict[str, Any]) -> None:
        handler.stream(_openai("Let me", (), None)[:2], named=False, pause=seconds)

    return step


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _pieces(text: str, size: int = 400) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def _openai(text: str, calls: tuple[Call, ...], finish: str | None) -> list[tuple[str, Any]]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> tuple[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return "", {"id": "r1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": piece}) for piece in _pieces(text)]
    for i, (name, arguments) in enumerate(calls):
        head = {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": ""}}
        events.append(chunk({"tool_calls": [head]}))
        events += [
            chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
            for piece in _pieces(_arguments(arguments))
        ]
    events.append(chunk({}, finish or ("tool_calls" if calls else "stop")))
    usage = {"prompt_tokens": 1200, "completion_tokens": 80, "total_tokens": 1280}
    last = {"id": "r1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
    return [*events, ("", last), ("", "[DONE]")]


def _anthropic(text: str, calls: tuple[Call, ...], finish: str | None) -> list[tuple[str, Any]]:
    usage = {"input_tokens": 200, "output_tokens": 1, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 0}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
    events: list[tuple[str, Any]] = [("message_start", {"type": "message_start", "message": message})]
    blocks: list[tuple[dict[str, Any], str, str]] = []
    if text:
        blocks.append(({"type": "text", "text": ""}, "text_delta", text))
    for i, (name, arguments) in enumerate(calls):
        start = {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": {}}
        blocks.append((start, "input_json_delta", _arguments(arguments)))
    for i, (block, kind, content) in enumerate(blocks):
        events.append(("content_block_start", {"type": "content_block_start", "index": i, "content_block": block}))
        key = "text" if kind == "text_delta" else "partial_json"
        events += [
            ("content_block_delta", {"type": "content_block_delta", "index": i, "delta": {"type": kind, key: piece}})
            for piece in _pieces(content)
        ]
        events.append(("content_block_stop", {"type": "content_block_stop", "index": i}))
    reason = finish or ("tool_use" if calls else "end_turn")
    delta = {"stop_reason": reason, "stop_sequence": None}
    events.append(("message_delta", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 80}}))
    return [*events, ("message_stop", {"type": "message_stop"})]
