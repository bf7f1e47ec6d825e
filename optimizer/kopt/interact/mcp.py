"""The tools as an MCP server over stdio, for any coding agent. The evaluator stays outside the agent's sandbox.

The server answers at once; the run behind it, which needs a compiler to be loaded, is opened by the first call.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import kopt
from kopt.errors import KoptError, UsageError
from kopt.interact.tools import definitions
from kopt.interact.visitor import RESOURCES, Backend

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

SCHEME = "kopt://"
INSTRUCTIONS = (
    "kopt judges GPU kernels: it compiles, checks and times what you send, and keeps the best. Read the resource "
    "kopt://brief first. Then call evaluate with a complete kernel file, read what it says binds the kernel, and go on "
    "until the run says that its budget is spent. Do not stop earlier."
)


def _nothing() -> None: ...


def serve(
    backend: Future[Backend], on_ready: Callable[[], None] = _nothing, on_asked: Callable[[], None] = _nothing
) -> None:
    """Answer on stdin and stdout until the client closes them. UsageError when the extra is missing.

    `on_ready` is called when answers can be given, `on_asked` when the first one needs the backend.
    """
    gc.disable()  # the SDK builds a thousand models while it is imported, and none of them is garbage
    try:
        import anyio
        from mcp.server.stdio import stdio_server
    except ImportError:
        raise UsageError("kopt mcp needs the extra: pip install 'kopt-gpu[mcp]'") from None

    async def run() -> None:
        server = build(backend, on_asked)
        gc.enable()
        async with stdio_server() as (reading, writing):
            on_ready()
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(run)


def build(backend: Future[Backend], on_asked: Callable[[], None] = _nothing) -> Server[Any]:
    """The server with its tools and resources."""
    import mcp_types as types
    from anyio import to_thread
    from mcp.server.lowlevel import Server

    tools = [types.Tool(name=name, description=text, input_schema=schema) for name, text, schema in definitions()]
    resources = [
        types.Resource(uri=SCHEME + name, name=name, description=text, mime_type=_mime(name))
        for name, text in RESOURCES.items()
    ]

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def list_resources(context: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=resources)

    async def call(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        on_asked()
        ok, text = await to_thread.run_sync(lambda: _call(backend, params.name, dict(params.arguments or {})))
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=not ok)

    async def read(context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        name = uri.removeprefix(SCHEME)
        on_asked()
        text = await to_thread.run_sync(lambda: backend.result().resource(name))
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type=_mime(name), text=text)]
        )

    return Server(
        "kopt",
        version=kopt.__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call,
        on_list_resources=list_resources,
        on_read_resource=read,
    )


def _call(backend: Future[Backend], name: str, arguments: dict[str, Any]) -> tuple[bool, str]:
    try:
        served = backend.result().call(name, arguments)
    except KoptError as error:
        return False, str(error)
    return served.ok, served.text


def _mime(name: str) -> str:
    return "text/x-python" if name == "incumbent" else "text/markdown"
