"""bench: kernels, the published winner and the vendor library in one table."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from kopt.cli.shared import GpuName, Json, Target, TaskName, Workspace, console, print_json, root, show


def add(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    ctx: typer.Context,
    task: TaskName,
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE|RUN/N]...", help="Kernels of your own.")] = None,
    only: Annotated[bool, typer.Option("--only", help="These kernels and the vendor library, nothing else.")] = False,
    regime: Annotated[
        Literal["burst", "sustained"], typer.Option(help="Cool and short, or under lasting load.")
    ] = "burst",
    rounds: Annotated[int, typer.Option(min=1, help="Times that every kernel is measured.")] = 3,
    quads: Annotated[int, typer.Option(min=1, help="Quads a shape, kernel and round.")] = 4,
    shapes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of [[timing]] tables with your own sizes.")
    ] = None,
    target: Target = None,
    gpu: GpuName = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table as CSV.")] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    json: Json = False,
    workspace: Workspace = None,
    backend: Annotated[Literal["cuda", "cpu"], typer.Option(hidden=True)] = "cuda",
) -> None:
    """Measure kernels beside the vendor library, in turns.

    Your files first, then the published kernel and the ladder of families. Needs a GPU.
    """
    where = root(ctx, workspace)
    from kopt import content
    from kopt.bench import show as shown
    from kopt.bench.entries import entries
    from kopt.bench.rounds import bench as measure
    from kopt.errors import ExitCode, MachineError
    from kopt.evaluate.evaluator import Evaluator
    from kopt.judge import SCREENING, Judge, Plan
    from kopt.machine.choose import choose
    from kopt.machine.detect import VISIBLE, detect
    from kopt.shapes import read_shapes
    from kopt.text import line

    found = content.load_task(task, where)
    sizes = read_shapes(shapes, found) if shapes else found.timing
    place = choose(target, gpu)
    if backend == "cuda" and place.gpu is None:
        here = detect()
        there = here.problem or ", ".join(g.name for g in here.visible()) or f"{VISIBLE} hides all GPUs"
        raise MachineError(f"kopt bench measures, which needs an {place.target.name} here: {there}")
    # As the loop measures; that a kernel's price does not depend on the asking is for its judge to find out.
    plan = SCREENING.model_copy(update={"quads": quads, "precision": None, "seconds": 300.0})
    if backend == "cpu":
        plan = Plan(quads=1, batch_us=500.0, idle_s=0.0, graph=False, agreement=False)
        sizes = sizes if shapes else found.check_cpu[:2]
    taking_part = entries(found, place.target.key, where, files or (), others=not only)
    out = console(stderr=True)
    materials, binaries = {}, {}
    with ExitStack() as stack:
        if backend == "cuda":
            # Before anything is timed: compilers would be in the way.
            evaluator = stack.enter_context(Evaluator(found, target=place.target.key, shapes=sizes))
            for entry in taking_part:
                if not entry.refused:
                    out.print(f"tracing {line(entry.label, 60)}", style="bright_black")
                    materials[entry.label] = evaluator.material(entry.source, entry.parameters)
                    made = evaluator.binaries(entry.source, entry.parameters)
                    binaries[entry.label] = stack.enter_context(made)
        judge = stack.enter_context(Judge(found, backend, device=place.gpu or "", target=place.target))

        def say(number: int, label: str) -> None:
            out.print(f"round {number + 1} of {rounds}: {line(label, 60)}", style="bright_black")

        rows = measure(judge, found, taking_part, sizes, regime, plan, rounds, say, materials, binaries)
    if csv:
        shown.write_text(csv, shown.as_csv(rows))
    if figure:
        name = place.target.name if backend == "cuda" else "CPU backend"
        shown.figure(rows, f"{found.title} on {name}, {regime}", figure)
    if json:
        means = {k: {"utilization": u, "baseline": b} for k, (u, b) in shown.means(rows).items()}
        print_json({
            "task": found.name, "backend": backend, "target": place.target.key if backend == "cuda" else None,
            "regime": regime, "rounds": rounds, "quads": plan.quads, "toolchain": judge.about.get("toolchain"),
            "rows": [shown.plain(row) for row in rows], "means": means,
        })  # fmt: skip
    else:
        show(shown.table(rows))
        if backend == "cpu":
            typer.echo("CPU backend: these times exercise the judge and say nothing about any GPU")
    if all(row.us is None for row in rows):
        raise typer.Exit(ExitCode.KERNEL_FAILED)
