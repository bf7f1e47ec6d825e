"""profile: where a submission's time goes."""

from __future__ import annotations

import typer

from kopt.cli.look import Submission
from kopt.cli.shared import Json, Workspace, print_json, root


def add(app: typer.Typer) -> None:
    app.command("profile")(profile)


def profile(ctx: typer.Context, reference: Submission, json: Json = False, workspace: Workspace = None) -> None:
    """Show what binds a submission.

    Modelled terms by shape, and the compiler's facts of each kernel.

    They come from the run itself: registers, spills, shared memory, pipeline and matrix instructions as compiled for
    its GPU, and measured times where there are some.
    """
    where = root(ctx, workspace)
    from kopt import runs
    from kopt.errors import UsageError
    from kopt.interact.views import profiled
    from kopt.run import Run
    from kopt.text import plain

    name, word = runs.split(reference)
    run = Run.load(runs.resolve(name, where))
    n = runs.number(run, word or "best")
    verdict = run.verdict(n)
    if verdict is None:
        raise UsageError(f"{run.id}/{n} has no verdict yet")
    if not json:
        typer.echo(plain(profiled(verdict, n)))
        return
    traced = [stage for stage in verdict.stages if stage.stage == "trace"]
    print_json({
        "run": run.id, "submission": n, "target": verdict.target, "evidence": verdict.evidence,
        "predictions": [p.model_dump(mode="json") for p in verdict.predictions],
        "measurements": [m.model_dump(mode="json") for m in verdict.measurements],
        "kernels": traced[0].facts.get("kernels", {}) if traced else {},
    })  # fmt: skip
