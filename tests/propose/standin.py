"""A coding agent for tests, started by its command line: standin.py HOW. It reaches kopt as real ones do.

HOW is "mcp" (a real MCP client with the configuration it was given), "idle" (leaves at once), "fails" (exit code 3), or
"stays" (starts a child of its own and neither ends).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def over_mcp(name: str) -> None:
    import anyio
    from mcp.client.session import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    server = json.loads(Path(".mcp.json").read_text())["mcpServers"]["kopt"]
    body = f"# score 0.{name}\n    a = {int(name)}"
    made = Path("skeleton.py").read_text().replace("# TODO: add y", body)

    async def run() -> None:
        parameters = StdioServerParameters(command=server["command"], args=server["args"], env=dict(os.environ))
        async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as client:
            await client.initialize()
            assert "# Task: a x plus y" in Path("BRIEF.md").read_text()
            result = await client.call_tool("evaluate", {"source": made, "note": f"Agent's kernel {name}"})
            print(result.content[0].text, flush=True)  # type: ignore[union-attr]

    anyio.run(run)


def main(how: str) -> None:
    print(f"stand-in {how} for {os.environ['KOPT_TASK']}", flush=True)
    if how == "mcp":
        over_mcp(Path.cwd().name[-2:])
    elif how == "fails":
        sys.exit(3)
    elif how == "stays":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("child.pid").write_text(str(child.pid))
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
