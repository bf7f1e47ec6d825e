"""What a run did, for others to see: report, view, compare, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kopt.cli.shared import Json, RunName, Workspace, print_json, root


def add(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    ctx: typer.Context,
    run: RunName = "last",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write it (default: reports/RUN).")
    ] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Write the utilization report of a run: one page that needs nothing else, figures, and summaries."""
    from kopt import runs
    from kopt.report import write

    where = root(ctx, workspace)
    written = write.report(runs.resolve(run, where), where, out)
    if json:
        print_json({name: str(path) for name, path in written._asdict().items()})
        return
    size = written.page.stat().st_size / 1024
    typer.echo(f"{written.page}  ({size:,.0f} KiB)\n" + "\n".join(str(path) for path in written[1:]))
