"""The main job: run, and resume where a run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kopt.cli import driving
from kopt.cli.ending import end
from kopt.cli.shared import (
    GpuName,
    Json,
    Modelled,
    RunName,
    Target,
    TaskName,
    Workspace,
    console,
    root,
)

if TYPE_CHECKING:
    from kopt.budget import Budget

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
    gpu: GpuName = None,
    modelled: Modelled = False,
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
    model: driving.Model = None,
    agent: driving.Agent = None,
    replay: driving.Replay = None,
    patience: driving.Patience = None,
    max_tool_calls: driving.MaxCalls = None,
    max_tokens: driving.MaxTokens = None,
    max_dollars: driving.MaxDollars = None,
    seed: Annotated[int, typer.Option(help="Same seed, same search.")] = 0,
    name: Annotated[str | None, typer.Option(help="Id of the run (default: task and time).")] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Optimize a task, from its families to the best kernel.

    The loop climbs the task's kernel families, tunes the promising ones and keeps the best. Without --minutes and
    --until, it ends after 40 submissions and 36 trials. With --model or --agent, a model writes the kernels instead; it
    ends when a budget does.
    """
    where = root(ctx, workspace)
    from kopt import loop
    from kopt.budget import Budget
    from kopt.report import live

    if name is not None:
        _check_name(name)
    proposer = driving.proposer(model, agent, replay)
    counted = loop.DEFAULT_BUDGET if proposer == "search" and minutes is None and until is None else Budget()
    budget = Budget(
        submissions=counted.submissions if submissions is None else submissions,
        trials=counted.trials if trials is None else trials,
        minutes=minutes,
        tool_calls=max_tool_calls,
        tokens=max_tokens,
        dollars=max_dollars,
        patience=patience,
        until=until,
    )
    budget = driving.limited(budget, model, agent)
    # With --json the document alone goes to standard output, and progress beside it.
    with live.observer(console(stderr=json)) as observer:
        done = loop.start(
            task,
            target=target,
            gpu=gpu,
            modelled=modelled,
            workspace=where,
            proposer=proposer,
            seed=seed,
            budget=budget,
            start=start,
            shapes=shapes,
            observer=observer,
            name=name,
        )
    driving.say_what_changed(done, replay, where, json)
    end(done, where, json)


def resume(
    ctx: typer.Context,
    run: RunName = "last",
    submissions: Submissions = None,
    trials: Trials = None,
    minutes: Minutes = None,
    until: Until = None,
    patience: driving.Patience = None,
    max_tool_calls: driving.MaxCalls = None,
    max_tokens: driving.MaxTokens = None,
    max_dollars: driving.MaxDollars = None,
    gpu: GpuName = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Continue a run where it stopped. A limit given here replaces the one it was started with."""
    where = root(ctx, workspace)
    from kopt import loop, runs
    from kopt.meta import read_meta
    from kopt.report import live

    folder = runs.resolve(run, where)
    given = {
        "submissions": submissions, "trials": trials, "minutes": minutes, "until": until, "patience": patience,
        "tool_calls": max_tool_calls, "tokens": max_tokens, "dollars": max_dollars,
    }  # fmt: skip
    limits: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    shown: Budget = read_meta(folder).budget.model_copy(update=limits)
    with live.observer(console(stderr=json), shown) as observer:
        done = loop.resume(folder, workspace=where, gpu=gpu, budget=limits, observer=observer)
    end(done, where, json)


def _check_name(name: str) -> None:
    """A run's id becomes a folder's name and half of RUN/N."""
    import re

    from kopt.errors import UsageError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name) or name == "last":
        raise UsageError(f"--name {name!r}: use up to 80 letters, digits, dots, dashes and underscores, and not 'last'")
