"""What a run did, for others to see: report, view, compare, watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import Json, RunName, Workspace, complete_run, console, print_json, root, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from kopt.report.comparison import Side

Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write it (default: in reports/).")]


def add(app: typer.Typer) -> None:
    app.command("report")(report)
    app.command("view")(view)
    app.command("compare")(compare)
    app.command("watch")(watch)


def report(
    ctx: typer.Context, run: RunName = "last", out: Out = None, json: Json = False, workspace: Workspace = None
) -> None:
    """Write the utilization report of a run.

    One page that needs nothing else, figures, and summaries.
    """
    from kopt import runs
    from kopt.report import drawing

    where = root(ctx, workspace)
    folder = runs.resolve(run, where)
    with drawing.beside() as draw:
        from kopt.report import write

        written = write.report(folder, where, out, draw)
    if json:
        print_json({name: str(path) for name, path in written._asdict().items()})
        return
    size = written.page.stat().st_size / 1024
    typer.echo(f"{written.page}  ({size:,.0f} KiB)\n" + "\n".join(str(path) for path in written[1:]))


def view(
    ctx: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Open at this run.", autocompletion=complete_run)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on (default: a free one).")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others can read every run here if it is not this machine's own.")
    ] = "127.0.0.1",
    workspace: Workspace = None,
) -> None:
    """Show runs in a browser, live while they go on.

    Ends with Ctrl-C.
    """
    from kopt import runs
    from kopt.errors import UsageError

    where = root(ctx, workspace)
    path = f"runs/{runs.resolve(run, where).name}" if run else ""
    try:
        from kopt.report.view.app import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"kopt view needs {error.name}: pip install 'kopt-gpu[view]'") from None

    def ready(address: str) -> None:
        typer.echo(f"{address}{path}")
        typer.echo("Ctrl-C ends it", err=True)

    serve(where, host=host, port=port, ready=ready)


def compare(
    ctx: typer.Context,
    runs_: Annotated[
        list[str], typer.Argument(metavar="RUN RUN…", help="Two runs or more.", autocompletion=complete_run)
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare what is not comparable too; the reasons are still shown.")
    ] = False,
    out: Out = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Compare runs: tables, and a figure of the best so far. Refuses numbers of different kinds, saying why."""
    from kopt import runs
    from kopt.errors import UsageError
    from kopt.report import compared, comparison

    where = root(ctx, workspace)
    folders = list(dict.fromkeys(runs.resolve(name, where) for name in runs_))
    if len(folders) < 2:
        raise UsageError("kopt compare needs two different runs or more; kopt runs lists those there are")
    sides = [comparison.side(folder, where) for folder in folders]
    reasons = comparison.refusals(sides)
    if reasons and not anyway:
        raise UsageError("\n".join([*reasons, "These runs are not compared; --anyway compares them all the same"]))
    names = "--".join(side.rows.id for side in sides)
    png, svg = compared.draw(sides, out or where / "reports" / names[:120])
    if json:
        print_json({**comparison.as_json(sides), "figures": [str(png), str(svg)]})
        return
    _show(sides, reasons, png)


def _show(sides: Sequence[Side], reasons: Sequence[str], png: Path) -> None:
    from rich.text import Text

    from kopt.report import comparison

    for text in [*reasons, *comparison.warnings(sides)]:
        show(Text(f"warning: {text}", style="yellow"))
    names = [side.rows.id for side in sides]
    show(_beside(names, comparison.facts(sides)))
    shapes = [
        (
            name,
            [
                "" if us is None else f"{us.value:,.1f}" + (f" ({ratio:.2f}x)" if ratio and i else "")
                for i, (us, ratio) in enumerate(cells)
            ],
        )
        for name, cells in comparison.by_shape(sides)
    ]
    if shapes:
        show(Text("\nus by shape, and the speed against the first run", style="bold"))
        show(_beside([f"{s.rows.id} ({s.rows.evidence})" for s in sides], shapes))
    show(Text(f"\nfigure  {png}", style="bright_black"))


def _beside(names: Sequence[str], facts: Sequence[tuple[str, Sequence[str]]]) -> Table:
    from rich.text import Text

    from kopt.report import terminal
    from kopt.text import line

    table = terminal.table("", *(line(name, 50) for name in names))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cells in facts:
        table.add_row(Text(name, style="bright_black"), *(Text(line(cell, 60)) for cell in cells))
    return table


def watch(ctx: typer.Context, run: RunName = "last", workspace: Workspace = None) -> None:
    """Follow a run from another terminal until it ends. Ctrl-C stops watching, not the run."""
    from rich.text import Text

    from kopt import runs
    from kopt.report import terminal
    from kopt.report.rows import rows
    from kopt.report.watch import follow

    folder = runs.resolve(run, root(ctx, workspace))
    try:
        following = follow(folder, console())
    except KeyboardInterrupt:
        return
    show(terminal.summary(rows(following.run)))
    if not following.run.ended:
        show(Text("its process is gone; kopt resume goes on", style="yellow"))
