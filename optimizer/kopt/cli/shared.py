"""What several commands need: common options, the workspace, output as a table or as JSON, completion."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kopt.report.screen import Screen


INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE: whoever read the output has gone."""


@dataclass
class Shared:
    """Options that stand before the command."""

    workspace: Path | None = None
    debug: bool = False


def root(ctx: typer.Context, workspace: Path | None = None) -> Path:
    """The workspace: named after the command, named before it, or found."""
    from kopt.workspace import workspace as find

    return find(workspace or ctx.ensure_object(Shared).workspace)


def console(*, stderr: bool = False) -> Screen:
    from kopt.report.screen import screen

    return screen(stderr=stderr)


def show(renderable: RenderableType) -> None:
    out = console()
    out.print(renderable)
    out.file.flush()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs, the newest first."""
    from kopt import runs

    with contextlib.suppress(Exception):  # a completion has nowhere to complain
        there = runs.names(_completing_in(ctx))
        return [name for name in ("last", *there) if name.startswith(incomplete)]
    return []


def complete_submission(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs, and after the slash the submissions of that run."""
    from kopt import runs

    run, slash, n = incomplete.rpartition("/")
    if not slash:
        return complete_run(ctx, incomplete)
    with contextlib.suppress(Exception):
        folder = runs.resolve(run, _completing_in(ctx))
        numbers = sorted(int(path.name[:4]) for path in (folder / "sources").glob("[0-9][0-9][0-9][0-9]*-*.py"))
        return [f"{run}/{word}" for word in ("best", *map(str, numbers)) if word.startswith(n)]
    return []


def complete_task(ctx: typer.Context, incomplete: str) -> list[str]:
    from kopt import content

    with contextlib.suppress(Exception):
        return [name for name in content.list_tasks(_completing_in(ctx)) if name.startswith(incomplete)]
    return []


def complete_target(incomplete: str) -> list[tuple[str, str]]:
    from kopt.machine.products import PRODUCTS

    return [(row.key, row.name) for row in PRODUCTS if row.key.startswith(incomplete)]


def _completing_in(ctx: typer.Context) -> Path:
    from kopt.workspace import workspace

    before = ctx.parent.params.get("workspace") if ctx.parent else None
    return workspace(ctx.params.get("workspace") or before)


Workspace = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", envvar="KOPT_WORKSPACE", help="Folder to work in.", show_envvar=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help='Id, unique prefix of one, or "last".', autocompletion=complete_run)
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Name of a task.", autocompletion=complete_task)]
Target = Annotated[
    str | None,
    typer.Option(
        help="GPU to compile for (default: the one at hand, else h200). It is measured on if it is at hand.",
        autocompletion=complete_target,
    ),
]
GpuName = Annotated[
    str | None,
    typer.Option("--gpu", metavar="INDEX|UUID", help="Which GPU to measure on; of several, the first that is idle."),
]
Modelled = Annotated[bool, typer.Option("--modelled", help="Model times even where a GPU could measure them.")]
