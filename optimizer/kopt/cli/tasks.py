"""Tasks: list, show, new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import Json, TaskName, Workspace, print_json, root, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kopt.records import Task

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
    show(_table_of(found))


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
    show(_contract(found, families))


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


def _table_of(found: Sequence[Task]) -> RenderableType:
    from rich.text import Text

    from kopt.report.terminal import table
    from kopt.text import line

    if not found:
        return Text("no tasks in sight; kopt tasks new NAME makes one")
    made = table("task", "what", "scored by", "folder")
    for one in found:
        made.add_row(
            one.name,
            Text(line(one.title, 80)),
            f"{one.score.metric} ({line(one.score.peak, 20)})",
            Text(line(one.folder)),
        )
    return made


def _contract(found: Task, families: Sequence[str]) -> RenderableType:
    """What a task demands, in a few lines."""
    from rich.console import Group
    from rich.text import Text

    from kopt.report.terminal import table
    from kopt.text import line

    tensors = table("tensor", "role", "dtype", "dims")
    for tensor in found.tensors:
        tensors.add_row(tensor.name, tensor.role, tensor.dtype, ", ".join(map(str, tensor.dims)))
    shapes = table("shapes", "sizes")
    for section in ("timing", "check_cpu", "check_gpu"):
        for shape in getattr(found, section):
            sizes = ", ".join(f"{name}={size}" for name, size in shape.dims.items())
            inputs = f", {'|'.join(shape.inputs)} inputs" if shape.inputs else ""
            shapes.add_row(section, Text(f"{shape.name} ({sizes}{inputs})"))
    demands = [
        f"{name} a multiple of {dim.multiple_of}" for name, dim in found.dims.items() if dim.multiple_of > 1
    ]  # fmt: skip
    demands += [line(condition) for condition in found.requires]
    call = ", ".join(tensor.name for tensor in found.tensors)
    return Group(
        Text(line(found.title), style="bold"),
        Text(f"{found.entry}({call}, *, ...)" + (f"   {', '.join(demands)}" if demands else "")),
        Text(f"scored by {found.score.metric} ({found.score.peak}); folder {line(found.folder)}"),
        Text(f"families: {', '.join(families) or 'none'}"),
        Text(""), tensors, Text(""), shapes,
    )  # fmt: skip
