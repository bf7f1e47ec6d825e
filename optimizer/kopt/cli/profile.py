"""profile: where a submission's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.look import Submission
from kopt.cli.shared import Json, Workspace, print_json, root

if TYPE_CHECKING:
    from pathlib import Path

    from kopt.profile import Profile
    from kopt.run import Run


def add(app: typer.Typer) -> None:
    app.command("profile")(profile)


def profile(
    ctx: typer.Context,
    reference: Submission,
    shape: Annotated[
        str, typer.Option(metavar="NAME", help="Timing shape whose launches are counted (default: the first).")
    ] = "",
    counters: Annotated[bool, typer.Option(help="Count on the GPU at hand, with ncu.")] = True,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Show what binds a submission.

    Modelled terms by shape, and the compiler's facts of each kernel, from the run itself: registers, spills, shared
    memory, pipeline and matrix instructions as compiled for its GPU, and measured times where there are some.

    With its GPU and ncu (Nsight Compute) at hand, the GPU's own counters too: the launches are launched again under the
    profiler, and about two dozen counters become what binds each kernel and three facts.
    """
    where = root(ctx, workspace)
    from kopt import runs
    from kopt.errors import HarnessError, MachineError, UsageError
    from kopt.interact.views import counted, profiled
    from kopt.run import Run
    from kopt.text import plain

    name, word = runs.split(reference)
    run = Run.load(runs.resolve(name, where))
    n = runs.number(run, word or "best")
    verdict = run.verdict(n)
    if verdict is None:
        raise UsageError(f"{run.id}/{n} has no verdict yet")
    found: list[Profile] = []
    missing = "not asked for"
    if counters:
        try:
            found, missing = _counters(run, n, shape, where), ""
        except (MachineError, HarnessError) as why:
            if shape:
                raise
            missing = str(why)
    again = run.measured_again(n)
    if not json:
        typer.echo(plain(profiled(verdict, n, again)))
        if found:
            typer.echo("\n" + plain(counted(found)))
        elif counters:
            typer.echo(f"\n{missing}")
        return
    traced = [stage for stage in verdict.stages if stage.stage == "trace"]
    print_json({
        "run": run.id, "submission": n, "target": verdict.target, "evidence": verdict.evidence,
        "predictions": [p.model_dump(mode="json") for p in verdict.predictions],
        "measurements": [m.model_dump(mode="json") for m in again or verdict.measurements],
        "kernels": traced[0].facts.get("kernels", {}) if traced else {},
        "counters": [p.model_dump(mode="json") for p in found], "no_counters": missing,
    })  # fmt: skip


def _counters(run: Run, n: int, shape: str, where: Path) -> list[Profile]:
    """MachineError where this machine cannot count for this run; UsageError for a shape that is not timed."""
    from kopt import content
    from kopt.errors import MachineError
    from kopt.evaluate.evaluator import Evaluator
    from kopt.judge.lock import lock
    from kopt.machine.choose import choose
    from kopt.machine.products import product

    entry, target = run.entry(n), product(run.meta.target)
    gpu = choose(target.key).gpu
    if gpu is None:
        raise MachineError(f"no counters: they need an {target.name}, and there is none here")
    lock(gpu)  # until this process ends: a judge beside it would measure the profiler
    task = content.load_task(run.meta.task, where)
    with Evaluator(task, target=target.key, shapes=run.meta.shapes, seed=run.meta.seed) as evaluator:
        return evaluator.counters(entry.submission, run.source(n), shape, gpu)
