"""Who drives: a model, an agent or a past run; what a model is told; the MCP server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import Target, TaskName, Workspace, complete_run, complete_task, root

if TYPE_CHECKING:
    from kopt.budget import Budget
    from kopt.propose import Proposer
    from kopt.run import Run

Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Let a model drive: PROVIDER:NAME, NAME@URL for an OpenAI-compatible server, or scripted. "
        "May be repeated: the next one takes over when one is at its end.",
    ),
]
Agent = Annotated[
    str | None, typer.Option("--agent", metavar="CMD", help="Let a coding agent's command line drive, over MCP.")
]
Replay = Annotated[
    str | None,
    typer.Option("--replay", metavar="RUN", help="Judge a past run again.", autocompletion=complete_run),
]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many submissions without a gain.")]
MaxCalls = Annotated[int | None, typer.Option("--max-tool-calls", min=0, help="Stop after so many tool calls.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=0, help="Stop after so many tokens.")]
MaxDollars = Annotated[
    float | None, typer.Option("--max-dollars", min=0, help="Stop at this cost; 20 for models unless raised.")
]


def add(app: typer.Typer) -> None:
    app.command("brief")(brief)
    app.command("mcp")(mcp)


def proposer(model: list[str] | None, agent: str | None, replay: str | None) -> str:
    """The name of the proposer that these options ask for; UsageError when they ask for two."""
    from kopt.errors import UsageError
    from kopt.propose import MODELS

    chosen = [name for name, value in (("--model", model), ("--agent", agent), ("--replay", replay)) if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: one of them can drive a run")
    if model:
        return f"model:{MODELS.join(model)}"
    if agent:
        return f"agent:{agent}"
    return f"replay:{replay}" if replay else "search"


def limited(budget: Budget, model: list[str] | None, agent: str | None) -> Budget:
    """The budget with the caps that hold for models and agents; for models an estimate is said on standard error."""
    if not (model or agent):
        return budget
    from kopt.propose.estimate import CALLS, estimate, limits

    if agent:  # what it costs is between the agent and its provider
        return budget.model_copy(update={"tool_calls": budget.tool_calls if budget.tool_calls is not None else CALLS})
    capped = limits(budget)
    for line in estimate(model or [], capped):
        typer.echo(line, err=True)
    return capped


def say_what_changed(done: Run, replay: str | None, workspace: Path, json: bool) -> None:
    """After a replay: which submissions are judged otherwise by now."""
    if replay is None:
        return
    from kopt.propose.replay import changes, told
    from kopt.run import Run
    from kopt.runs import resolve

    old = Run.load(resolve(replay, workspace))
    for line in told(old, list(changes(old, done))):
        typer.echo(line, err=json)


def brief(
    ctx: typer.Context,
    task: TaskName,
    target: Target = None,
    fences: Annotated[bool, typer.Option("--fences", help="As a model without tool calling sees it.")] = False,
    workspace: Workspace = None,
) -> None:
    """Print exactly what a model will see.

    The brief, then how an episode opens.
    """
    where = root(ctx, workspace)
    from kopt import content
    from kopt.machine.products import DEFAULT_TARGET, product
    from kopt.propose.opening import shown

    found = content.load_task(task, where)
    typer.echo(shown(found, product(target or DEFAULT_TARGET).key, tools=not fences))


def mcp(
    ctx: typer.Context,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Start a run of this.", autocompletion=complete_task)
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            envvar="KOPT_RUN",
            show_envvar=False,
            help="Join this live run, or go on with it.",
            autocompletion=complete_run,
        ),
    ] = None,
    target: Target = None,
    origin: Annotated[str, typer.Option("--as", metavar="NAME", help="mcp or agent.", hidden=True)] = "mcp",
    submissions: Annotated[int | None, typer.Option(min=1, help="Stop after so many submissions.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes of work.")] = None,
    patience: Patience = None,
    max_tool_calls: MaxCalls = None,
    workspace: Workspace = None,
) -> None:
    """Serve kopt's tools over stdio to an MCP client."""
    from kopt.errors import UsageError

    if (task is None) == (run is None):
        raise UsageError("kopt mcp needs --task TASK to start a run, or --run RUN to join one")
    where = root(ctx, workspace)
    from kopt import runs
    from kopt.budget import Budget
    from kopt.interact import host

    given = {"submissions": submissions, "minutes": minutes, "patience": patience, "tool_calls": max_tool_calls}
    limits = {name: value for name, value in given.items() if value is not None}
    if task is not None:
        from kopt import content

        content.load_task(task, where)  # an unknown task is refused here, not in a client's first call
        budget = Budget.model_validate(limits)

        def start(driver: Proposer) -> None:
            from kopt import loop  # with what it imports, only once the client has its tools

            loop.start(task, target=target, workspace=where, proposer="mcp", budget=budget, driver=driver)

        host.own(start)
        return
    assert run is not None
    folder = Path(run) if (Path(run) / "run.json").is_file() else runs.resolve(run, where)
    if runs.is_live(folder):
        host.join(folder, "agent" if origin == "agent" else "mcp")
        return

    def resume(driver: Proposer) -> None:
        from kopt import loop

        loop.resume(folder, workspace=where, budget=limits, driver=driver)

    host.own(resume)
