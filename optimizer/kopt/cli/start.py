"""init: a folder becomes a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kopt.cli.shared import Json, print_json


def add(app: typer.Typer) -> None:
    app.command("init")(init)


def init(folder: Annotated[Path, typer.Argument(help="Made if it is not there.")] = Path(), json: Json = False) -> None:
    """Make a workspace: kopt.toml and the folders that go with it. What is there stays as it is."""
    from kopt import scaffold

    made = [str(path) for path in scaffold.init(folder)]
    if json:
        print_json({"workspace": str(folder.resolve()), "made": made})
        return
    typer.echo(f"{folder.resolve()} is a workspace; next: kopt run fp8_gemm, or kopt tasks new NAME")
