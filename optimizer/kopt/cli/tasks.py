"""Tasks: list, show, new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kopt.cli.shared import Json, TaskName, Workspace, print_json, root, show

app = typer.Typer(help="What there is to optimize: list, show, or make a task.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def _default(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_tasks(ctx)


@app.command("list")
def list_tasks(ctx: typer.Context, json: Json = False, workspace: Workspace = None) -> None:
    """List the tasks in sight: those of the workspace, and those that come with kopt."""
    from kopt import content

    where = root(ctx, workspace)
    found = [content.load_task(name, where) for name in content.list_tasks(where)]
    if json:
        print_json(
            [{"name": task.name, "title": task.title, "entry": task.entry, "folder": task.folder} for task in found]
        )
        return
    from kopt.report import terminal

    show(terminal.tasks(found))


@app.command("show")
def show_task(ctx: typer.Context, task: TaskName, json: Json = False, workspace: Workspace = None) -> None:
    """Show a task's contract, shapes and families."""
    from kopt import content

    where = root(ctx, workspace)
    found = content.load_task(task, where)
    families = [path.stem for path in content.families(found, where)]
    if json:
        print_json({**found.model_dump(mode="json"), "families": families})
        return
    from kopt.report import terminal

    show(terminal.task(found, families))


@app.command("new")
def new_task(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the task: letters, digits and underscores.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="MODULE:FUNCTION", help="Python function to take signature and reference from."),
    ] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Make a task that runs as it stands, to be filled in."""
    from kopt import scaffold

    folder: Path = scaffold.new_task(name, root(ctx, workspace), source)
    if json:
        print_json({"task": name, "folder": str(folder)})
        return
    typer.echo(f"made {folder}; next: kopt tasks show {name}, then kopt run {name}")
