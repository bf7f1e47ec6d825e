"""One kernel file: check screens it and forgets, submit records it in a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import (
    GpuName,
    Json,
    Modelled,
    Target,
    TaskName,
    Workspace,
    complete_run,
    complete_target,
    console,
    print_json,
    root,
    show,
)

if TYPE_CHECKING:
    from kopt.evaluate.evaluator import Evaluator
    from kopt.records import Verdict

POLL = 0.2
"""Seconds between looks at a watched file."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="A kernel file.")]
Screened = Annotated[
    str | None, typer.Option("--target", help="GPU to compile for (default: h200).", autocompletion=complete_target)
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Pin a parameter; may be repeated.")]


def add(app: typer.Typer) -> None:
    app.command("check")(check)
    app.command("submit")(submit)


def check(
    ctx: typer.Context,
    task: TaskName,
    file: File,
    target: Screened = None,
    pinned: Set = None,
    watch: Annotated[bool, typer.Option("--watch", help="Check again whenever the file changes.")] = False,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Screen one kernel file; needs no GPU.

    Rules, compilation for the target, numerics against the reference, predicted time.
    """
    where = root(ctx, workspace)
    from kopt.source import read

    source = read(file)
    parameters = _parameters(pinned)
    from kopt.evaluate.evaluator import Evaluator
    from kopt.machine.products import DEFAULT_TARGET

    with Evaluator(task, target=target or DEFAULT_TARGET, workspace=where) as evaluator:

        def judge(text: str) -> Verdict:
            with _progress(json) as on_stage:
                verdict = evaluator.screen(text, parameters, on_stage=on_stage)
            _show(verdict, evaluator, json)
            return verdict

        verdict = judge(source)
        if watch:
            _watch(file, source, judge)
    raise typer.Exit(0 if verdict.passed else 1)


def submit(
    ctx: typer.Context,
    task: TaskName,
    file: File,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            envvar="KOPT_RUN",
            show_envvar=False,
            help="Record it in this run (default: a new one); a live one judges it itself.",
            autocompletion=complete_run,
        ),
    ] = None,
    target: Target = None,
    gpu: GpuName = None,
    modelled: Modelled = False,
    pinned: Set = None,
    note: Annotated[str, typer.Option(help="What it does differently, in a few words.")] = "",
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Judge one kernel and record it in a run."""
    where = root(ctx, workspace)
    from kopt.source import read

    source = read(file)
    parameters = _parameters(pinned)
    from kopt import runs
    from kopt import submit as submitting
    from kopt.report import live, single
    from kopt.report.rows import rows

    folder = runs.resolve(run, where) if run is not None else None
    with live.observer(console(stderr=json)) as observer:
        done, verdict = submitting.submit(
            task,
            source,
            folder=folder,
            target=target,
            gpu=gpu,
            modelled=modelled,
            workspace=where,
            parameters=parameters,
            note=note or file.name,
            observer=observer,
        )
    # An exact duplicate is answered with the verdict that it already has.
    row = next(row for row in rows(done).submissions if row.n == verdict.submission)
    if json:
        print_json({**row._asdict(), "run": done.id, "verdict": verdict.model_dump(mode="json")})
    else:
        show(single.verdict(verdict, row, done.meta.metric))
        typer.echo(f"\nrecorded as {done.id}/{verdict.submission}")
    raise typer.Exit(0 if verdict.passed else 1)


def _show(verdict: Verdict, evaluator: Evaluator, json: bool) -> None:
    if json:
        print_json(verdict.model_dump(mode="json"))
        return
    from kopt.report import single

    show(single.verdict(verdict, metric=evaluator.task.score.metric))


def _watch(file: Path, source: str, judge: Callable[[str], Verdict]) -> None:
    """Judge the file's every new content until Ctrl-C; an editor that writes in two steps is waited for."""
    import time

    from kopt.errors import UsageError
    from kopt.source import read

    console(stderr=True).print(f"watching {file}; Ctrl-C ends")
    while True:
        time.sleep(POLL)
        try:
            text = read(file)
        except UsageError:  # being replaced
            continue
        if text != source:
            source = text
            console(stderr=True).rule(time.strftime("%H:%M:%S"))
            judge(source)


@contextlib.contextmanager
def _progress(json: bool) -> Iterator[Callable[[str], None]]:
    """The stage that is running, on a terminal; nothing anywhere else."""
    out = console(stderr=True)
    if json or not out.is_terminal:
        yield lambda stage: None
        return
    with out.status("starting the workers ...") as status:
        yield lambda stage: status.update(f"{stage} ...")


def _parameters(pinned: list[str] | None) -> dict[str, int | float | str | bool]:
    """NAME=VALUE, the value read as Python's literals are: 128, 0.5, True, or else text."""
    import ast

    from kopt.errors import UsageError
    from kopt.records import pinned as sound

    found: dict[str, int | float | str | bool] = {}
    for item in pinned or []:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {item!r}: write NAME=VALUE, such as --set BLOCK_M=128")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = text
        found[name] = value if isinstance(value, int | float | bool) else text
    try:
        sound(found)
    except ValueError as error:
        raise UsageError(f"--set {error}") from None
    return found
