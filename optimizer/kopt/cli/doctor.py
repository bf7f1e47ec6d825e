"""doctor: what this machine can do, and what to mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kopt.cli.shared import Json, Workspace, console, print_json, root
from kopt.errors import ExitCode

if TYPE_CHECKING:
    from rich.text import Text

    from kopt.doctor import Check


def add(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context, json: Json = False, workspace: Workspace = None) -> None:
    """Check this machine, and say what to mend."""
    from kopt.doctor import examine

    found = []
    out = console()
    for check in examine(root(ctx, workspace)):
        found.append(check)
        if not json:
            out.print(_line(check), soft_wrap=True)
    if json:
        print_json([check._asdict() for check in found])
    if any(check.state == "fail" for check in found):
        raise typer.Exit(ExitCode.MACHINE)


def _line(found: Check) -> Text:
    """One line of the doctor's report, and a second one for the mend."""
    from rich.text import Text

    from kopt.text import line

    style = {"ok": "green", "warn": "yellow", "fail": "red"}[found.state]
    text = Text.assemble((f"{found.state:<5}", style), f"{found.name:<20}", line(found.finding))
    if found.mend:
        text.append(f"\n     {'':<20}mend: {line(found.mend)}", style="bright_black")
    return text
