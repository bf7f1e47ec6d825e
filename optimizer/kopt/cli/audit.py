"""audit: kernels that cheat, and honest ones, against the evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import GpuName, Json, Workspace, console, print_json, root

if TYPE_CHECKING:
    from rich.text import Text

    from kopt.audit import Result


def add(app: typer.Typer) -> None:
    app.command("audit")(audit)


def audit(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="A corpus; by default kopt's own, tests/attacks.")] = None,
    only: Annotated[str, typer.Option(metavar="WORD", help="Files with this in their name, or one cheat (A2).")] = "",
    stage: Annotated[
        str, typer.Option(metavar="STAGE", help="Those of one stage: policy, trace, numerics, measure.")
    ] = "",
    gpu: GpuName = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="The CPU backend even where there is a GPU.")] = False,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Try the evaluator on a corpus of cheats.

    Honest kernels stand beside them; it says which stage rejects each.

    Attacks are tried with the static rules switched off. Those that need a GPU are left out where there is none.
    """
    where = root(ctx, workspace)
    from kopt import content
    from kopt.audit import Audit, score
    from kopt.errors import ExitCode, UsageError
    from kopt.machine.choose import choose

    place = choose(None, gpu, modelled=cpu)
    corpus = folder or content.PACKAGE.parent.parent / "tests" / "attacks"
    out = console(stderr=json)
    with Audit(corpus, where, "cpu" if place.gpu is None else "cuda", place.gpu or "", place.target.key) as running:
        items = [i for i in running.items if (only in i.path.stem or only == i.cheat) and stage in ("", i.stage)]
        if not items:
            raise UsageError(f"nothing in {corpus} fits --only {only!r} --stage {stage!r}")
        results = running.run(items, lambda result: out.print(_line(result), soft_wrap=True))
        left = [i.path.stem for i in items if running.skipped(i)]
    line = score(results)
    if json:
        print_json({
            "score": line, "backend": "cpu" if place.gpu is None else "cuda", "left_out": left,
            "results": [
                {"file": r.item.file, "kind": r.item.kind, "cheat": r.item.cheat, "right": r.right, "policy": r.policy,
                 "stage": r.stage, "finding": r.finding, "seconds": round(r.seconds, 2)} for r in results
            ],
        })  # fmt: skip
    else:
        elsewhere = "for a GPU" if place.gpu is None else "for the CPU backend"
        typer.echo(line + (f"; {len(left)} more {elsewhere}" if left else ""))
    if not all(r.right for r in results):
        raise typer.Exit(ExitCode.KERNEL_FAILED)


def _line(result: Result) -> Text:
    from rich.text import Text

    from kopt.text import line

    item = result.item
    word = "rejected" if result.stage else "passed"
    text = Text.assemble((f"{word:<9}", "green" if result.right else "bold red"), f"{item.cheat:<4}")
    text.append(f"{item.path.stem:<36} {result.stage or '-':<9} ")
    also = f"  (its text alone: {result.policy})" if result.policy and item.stage != "policy" else ""
    return text.append(f"{line(result.finding, 90)}{also}", "bright_black")
