"""The main job: run, and resume where a run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kopt.cli.shared import INTERRUPTED, Json, RunName, Target, TaskName, Workspace, console, print_json, root, show

if TYPE_CHECKING:
    from kopt.budget import Budget
    from kopt.run import Run

Submissions = Annotated[int | None, typer.Option(min=1, help="Stop after so many submissions.")]
Trials = Annotated[int | None, typer.Option(min=0, help="Parameter points the tuner may try.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes of work.")]
Until = Annotated[float | None, typer.Option(min=0, max=1, help="Stop at this score, such as 0.7.")]


def add(app: typer.Typer) -> None:
    app.command("run")(run)
    app.command("resume")(resume)


def run(
    ctx: typer.Context,
    task: TaskName,
    target: Target = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Kernel to start from, beside the task's families.")
    ] = None,
    shapes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of [[timing]] tables with your own sizes.")
    ] = None,
    submissions: Submissions = None,
    trials: Trials = None,
    minutes: Minutes = None,
    until: Until = None,
    seed: Annotated[int, typer.Option(help="Same seed, same search.")] = 0,
    name: Annotated[str | None, typer.Option(help="Id of the run (default: task and time).")] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Optimize a task, from its families to the best kernel.

    The loop climbs the task's kernel families, tunes the promising ones and keeps the best. Without --minutes and
    --until, a run ends after 40 submissions and 36 trials.
    """
    where = root(ctx, workspace)
    from kopt import loop
    from kopt.budget import Budget
    from kopt.machine.products import DEFAULT_TARGET
    from kopt.report import live

    if name is not None:
        _check_name(name)
    counted = loop.DEFAULT_BUDGET if minutes is None and until is None else Budget()
    budget = Budget(
        submissions=counted.submissions if submissions is None else submissions,
        trials=counted.trials if trials is None else trials,
        minutes=minutes,
        until=until,
    )
    # With --json the document alone goes to standard output, and progress beside it.
    with live.observer(console(stderr=json)) as observer:
        done = loop.start(
            task,
            target=target or DEFAULT_TARGET,
            workspace=where,
            seed=seed,
            budget=budget,
            start=start,
            shapes=shapes,
            observer=observer,
            name=name,
        )
    _end(done, where, json)


def resume(
    ctx: typer.Context,
    run: RunName = "last",
    submissions: Submissions = None,
    trials: Trials = None,
    minutes: Minutes = None,
    until: Until = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Continue a run where it stopped. A limit given here replaces the one it was started with."""
    where = root(ctx, workspace)
    from kopt import loop, runs
    from kopt.report import live
    from kopt.run import read_meta

    folder = runs.resolve(run, where)
    given = {"submissions": submissions, "trials": trials, "minutes": minutes, "until": until}
    limits: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    shown: Budget = read_meta(folder).budget.model_copy(update=limits)
    with live.observer(console(stderr=json), shown) as observer:
        done = loop.resume(folder, workspace=where, budget=limits, observer=observer)
    _end(done, where, json)


def _check_name(name: str) -> None:
    """A run's id becomes a folder's name and half of RUN/N."""
    import re

    from kopt.errors import UsageError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name) or name == "last":
        raise UsageError(f"--name {name!r}: use up to 80 letters, digits, dots, dashes and underscores, and not 'last'")


def _end(run: Run, where: Path, json: bool) -> None:
    """Summary, figure and exit code."""
    from rich.text import Text

    from kopt.report import figure, terminal
    from kopt.report.rows import rows

    shown = rows(run)
    png, svg = figure.draw(shown, where / "reports" / run.id)
    if json:
        print_json({**shown.as_json(), "folder": str(run.folder), "figures": [str(png), str(svg)]})
    else:
        show(terminal.summary(shown))
        best = f"kopt show {run.id}/best --source" if shown.best else f"kopt show {run.id} --all"
        show(Text(f"\nfigure  {png}\nnext    {best}", style="bright_black"))
    if shown.stopped == "stopped by request":
        raise typer.Exit(INTERRUPTED)
    if not shown.statuses.get("passed"):
        raise typer.Exit(1)
