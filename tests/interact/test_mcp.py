"""A real MCP client over stdio does a whole optimization."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="needs the extra: mcp")

import anyio
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from quick import WORKSPACE, kernel, session
from served import asked_for_tools

from kopt import runs
from kopt.interact.socket import Control
from kopt.run import Run

SKELETON = (WORKSPACE / "tasks" / "axpy" / "skeleton.py").read_text()
RIGHT = SKELETON.replace("# TODO: add y", "y = tl.load(y_ptr + offsets, mask=offsets < n)").replace(
    "2.0 * x,", "2.0 * x + y,"
)


def talk(arguments: list[str], use: Callable[[ClientSession], Awaitable[None]]) -> None:
    """Start `kopt mcp` as a client does, use it, and leave."""

    async def run() -> None:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "kopt", "mcp", *arguments], env=dict(os.environ)
        )
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as client:
            await client.initialize()
            await use(client)

    anyio.run(run)


def text(result: object) -> str:
    return str(result.content[0].text)  # type: ignore[attr-defined]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "kopt.toml").touch()
    (tmp_path / "tasks").symlink_to(WORKSPACE / "tasks")
    return tmp_path


def test_a_client_optimizes_a_task_from_start_to_end(workspace: Path) -> None:
    async def use(client: ClientSession) -> None:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"evaluate", "screen", "read", "history", "profile", "sass", "lesson", "hand_over"}
        resources = {str(r.uri) for r in (await client.list_resources()).resources}
        assert resources == {"kopt://brief", "kopt://incumbent", "kopt://history"}
        brief = (await client.read_resource("kopt://brief")).contents[0].text  # type: ignore[union-attr]
        assert "# Task: a x plus y" in brief
        wrong = await client.call_tool("evaluate", {"source": SKELETON, "note": "As it is"})
        assert (wrong.is_error, text(wrong).startswith("Submission 1: wrong")) == (False, True)
        right = await client.call_tool("evaluate", {"source": RIGHT, "note": "Add y", "parent": 1})
        assert "of the roofline, modelled" in text(right)
        assert "What binds" in text(right)
        assert "LDG" in text(await client.call_tool("sass", {}))
        assert (await client.call_tool("evaluate", {"source": RIGHT})).is_error
        await client.call_tool("hand_over", {"summary": "Works"})

    talk(["--task", "axpy", "--workspace", str(workspace)], use)
    run = Run.load(runs.resolve("last", workspace))
    assert [str(e.status) for e in run] == ["wrong", "passed"]
    assert run.charges.tool_calls == 5
    assert run.ended == "the proposer has nothing more to offer"
    assert run.dialogue.handed_over == "Works"


def test_the_tools_are_listed_before_a_compiler_is_loaded_and_looking_at_them_starts_no_run(tmp_path: Path) -> None:
    with asked_for_tools(tmp_path) as process:
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
    assert "pydantic_core" in loaded
    assert not any(name in loaded for name in ("libtriton", "libtorch"))
    assert process.returncode == 0
    assert not (tmp_path / "submissions").exists()


def test_a_client_joins_a_live_run(tmp_path: Path) -> None:
    with session(tmp_path) as live, Control(live):
        live.submit(kernel(0.2), note="The run's own", origin="search")

        async def use(client: ClientSession) -> None:
            assert "The run's own" in text(await client.call_tool("history", {}))
            await client.call_tool("evaluate", {"source": kernel(0.4), "note": "A visitor's"})

        talk(["--run", str(live.run.folder)], use)
        assert live.run.incumbent is not None
        assert live.run.incumbent.submission.note == "A visitor's"
