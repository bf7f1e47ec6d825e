"""doctor: what this machine can do, and what to mend."""

from __future__ import annotations

import typer

from kopt.cli.shared import Json, Workspace, console, print_json, root
from kopt.errors import ExitCode


def add(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context, json: Json = False, workspace: Workspace = None) -> None:
    """Check this machine, and say what to mend."""
    from kopt.doctor import examine
    from kopt.report import terminal

    found = []
    out = console()
    for check in examine(root(ctx, workspace)):
        found.append(check)
        if not json:
            out.print(terminal.check(check), soft_wrap=True)
    if json:
        print_json([check._asdict() for check in found])
    if any(check.state == "fail" for check in found):
        raise typer.Exit(ExitCode.MACHINE)
