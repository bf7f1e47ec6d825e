"""publish: a run's verified winner becomes a file to keep."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.look import Submission
from kopt.cli.shared import GpuName, Json, Workspace, console, print_json, root

if TYPE_CHECKING:
    from kopt.evaluate.evaluator import Evaluator
    from kopt.publish.write import Measure


def add(app: typer.Typer) -> None:
    app.command("publish")(publish)


def publish(
    ctx: typer.Context,
    reference: Submission,
    gpu: GpuName = None,
    modelled: Annotated[
        bool, typer.Option("--modelled", help="Publish what was never measured; the file says so.")
    ] = False,
    license: Annotated[str, typer.Option(help="SPDX identifier, where the source names none.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a better one.")] = False,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Write a submission as one file, with its evidence.

    It goes to kernels/TASK/published/, to be vendored or loaded with kopt.load.

    Numbers come from the run's finale. Where its GPU is at hand, a submission that no finale has seen is measured now,
    and parameters by shape are tried.
    """
    where = root(ctx, workspace)
    from kopt import content, runs
    from kopt.errors import UsageError
    from kopt.evaluate.evaluator import Evaluator, with_timing
    from kopt.machine.choose import choose
    from kopt.publish.write import publish as write
    from kopt.run import Run

    name, word = runs.split(reference)
    if not word:
        raise UsageError(f"publish which submission? write {reference}/best, or {reference}/N")
    run = Run.load(runs.resolve(name, where))
    n = runs.number(run, word)
    task = content.load_task(run.meta.task, where)
    if run.meta.shapes:
        task = with_timing(task, run.meta.shapes)
    place = choose(run.meta.target, gpu, modelled=modelled)
    with ExitStack() as stack:
        measure = None
        if place.gpu is not None:
            measure = _measure(stack.enter_context(Evaluator(task, target=place.target.key, gpu=place.gpu)))
        paths, record = write(run, n, task, where, measure=measure, modelled=modelled, license=license, force=force)
    if json:
        print_json({"kernel": str(paths.kernel), "record": str(paths.record), **record.model_dump(mode="json")})
        return
    by_shape = f", parameters by shape for {', '.join(record.configurations)}" if record.configurations else ""
    typer.echo(f"{paths.kernel}: {record.evidence} {100 * record.score:.1f} %{by_shape}")
    typer.echo(f"next    kopt bench {task.name}, or in Python: kopt.load({task.name!r})")


def _measure(evaluator: Evaluator) -> Measure:
    from kopt.errors import HarnessError, MachineError
    from kopt.evaluate.contest import contest
    from kopt.judge import Plan, Rival
    from kopt.records import Contest, Parameters, Submission, digest
    from kopt.text import line

    out = console(stderr=True)

    def measure(source: str, parameters: Parameters, plan: Plan, rival: Rival | None) -> Contest:
        what = "what is to be published" if rival is None else "parameters by shape against the submission's own"
        amount = f"{plan.quads} quads a shape in {plan.processes} processes, {plan.seconds / 60:.0f} minutes at most"
        out.print(f"measuring {what}: {amount}", style="bright_black")
        made = Submission(n=1, sha=digest(source, parameters), parameters=parameters, origin="publish")
        try:
            result = evaluator.remeasure(made, source, plan, rival)
        except (HarnessError, MachineError) as error:
            out.print(f"not measured: {line(str(error), 200)}", style="yellow")
            raise
        return contest(evaluator.task, evaluator.target, made, result, plan)

    return measure
