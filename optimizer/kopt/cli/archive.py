"""export and import: a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kopt.cli.shared import Json, RunName, Workspace, print_json, root


def add(app: typer.Typer) -> None:
    app.command("export")(export)
    app.command("import")(import_)


def export(
    ctx: typer.Context,
    run: RunName,
    file: Annotated[Path | None, typer.Argument(help="Archive to write (default: RUN.kopt.tar.gz here).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Pack a run into one archive: its journal and every source."""
    from kopt import archive, runs

    path = archive.export(runs.resolve(run, root(ctx, workspace)), file, overwrite=force)
    if json:
        print_json({"file": str(path), "bytes": path.stat().st_size})
        return
    typer.echo(f"wrote {path} ({path.stat().st_size / 1024:,.0f} KiB); kopt import {path.name} unpacks it")


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Archive that kopt export wrote.")],
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Unpack a run that was exported, once proved whole."""
    from kopt import archive

    folder = archive.unpack(file, root(ctx, workspace))
    if json:
        print_json({"run": folder.name, "folder": str(folder)})
        return
    typer.echo(f"run {folder.name} is in {folder.parent}; kopt show {folder.name}")
