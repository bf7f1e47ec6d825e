"""`kopt mcp` as a process that was asked for its tools and has answered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quick import WORKSPACE

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
MESSAGES = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
)


@contextmanager
def asked_for_tools(workspace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process as it is once the answer has arrived."""
    (workspace / "kopt.toml").touch()
    (workspace / "tasks").symlink_to(WORKSPACE / "tasks")
    process = subprocess.Popen(
        [sys.executable, "-m", "kopt", "mcp", "--task", "axpy", "-w", str(workspace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(json.dumps(message).encode() + b"\n" for message in MESSAGES))
    process.stdin.flush()
    for line in process.stdout:
        if b'"id":2' in line:
            break
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait(120)
