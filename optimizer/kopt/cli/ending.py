"""How a run's command ends: summary, figure, exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kopt.cli.shared import INTERRUPTED, print_json, show
from kopt.errors import ExitCode, KoptError

if TYPE_CHECKING:
    from kopt.report.rows import Rows
    from kopt.run import Run


ASKED = "stopped by request"


def end(run: Run, workspace: Path, json: bool) -> None:
    """Show what a run did and leave. A figure that cannot be written costs the figure, not the summary."""
    from rich.text import Text

    from kopt.report import figure, terminal
    from kopt.report.page.shapes import vendor
    from kopt.report.rows import rows
    from kopt.report.verdicts import verdict

    shown = rows(run)
    trouble: KoptError | None = None
    figures: list[str] = []
    try:
        library = vendor(verdict(run, shown.best.n) if shown.best else None, shown.metric)
        figures = [str(path) for path in figure.draw(shown, workspace / "reports" / run.id, library)]
    except KoptError as error:
        trouble = error
    if json:
        print_json({**shown.as_json(), "folder": str(run.folder), "figures": figures})
    else:
        show(terminal.summary(shown))
        paths = "".join(f"figure  {path}\n" for path in figures[:1])
        show(Text(f"\n{paths}next    {_next(shown)}", "bright_black"))
    if trouble is not None:
        raise trouble
    if shown.stopped == ASKED:
        raise typer.Exit(INTERRUPTED)
    if not shown.statuses.get("passed"):
        raise typer.Exit(ExitCode.KERNEL_FAILED)


def _next(shown: Rows) -> str:
    """The command that most likely comes next."""
    if shown.stopped == ASKED:
        return f"kopt resume {shown.id}"
    return f"kopt show {shown.id}/best --source" if shown.best else f"kopt show {shown.id} --all"
