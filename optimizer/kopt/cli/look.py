"""Reading runs: runs, show, diff. None of them writes, and none needs torch or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kopt.cli.shared import Json, Workspace, complete_submission, print_json, root, show

if TYPE_CHECKING:
    from pathlib import Path

    from kopt.run import Run

Reference = Annotated[
    str, typer.Argument(metavar="RUN[/N]", help="A run, or a submission of it.", autocompletion=complete_submission)
]
Submission = Annotated[
    str, typer.Argument(metavar="RUN/N", help='N is a number, "best" or "last".', autocompletion=complete_submission)
]


def add(app: typer.Typer) -> None:
    app.command("runs")(list_runs)
    app.command("show")(show_run)
    app.command("diff")(diff)


def list_runs(ctx: typer.Context, json: Json = False, workspace: Workspace = None) -> None:
    """List the runs of the workspace, the newest first."""
    from kopt import runs

    found = runs.summaries(root(ctx, workspace))
    if json:
        print_json([row.as_json() for row in found])
        return
    from kopt.report import listing

    typer.echo(listing.runs(found))


def show_run(
    ctx: typer.Context,
    reference: Reference = "last",
    source: Annotated[bool, typer.Option("--source", help="The source of a submission too.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every submission of a run, not the top five.")] = False,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Show what a run did, or what became of one submission."""
    from kopt import runs
    from kopt.report.rows import rows

    name, n = runs.split(reference)
    run = _load(runs.resolve(name, root(ctx, workspace)))
    if n:
        _show_submission(run, runs.number(run, n), source=source, json=json)
        return
    shown = rows(run)
    if json:
        print_json(shown.as_json())
        return
    from kopt.report import terminal

    show(terminal.summary(shown))
    if every:
        show(terminal.submissions(shown.submissions, shown.metric))


def _show_submission(run: Run, n: int, *, source: bool, json: bool) -> None:
    from kopt.report import verdicts
    from kopt.report.rows import rows

    row = rows(run).row(run.entry(n).n)
    assert row is not None, "every entry has a row"
    verdict = verdicts.verdict(run, n)
    if json:
        found = verdict.model_dump(mode="json") if verdict else None
        print_json({**row._asdict(), "run": run.id, "verdict": found, **({"source": run.source(n)} if source else {})})
        return
    from rich.text import Text

    from kopt.report import single

    if verdict is None:
        show(Text(f"submission {n}  {verdicts.problem(run, n)}"))
    else:
        show(single.verdict(verdict, row, run.meta.metric))
    if source:
        show(single.source(run.source(n)))


def diff(ctx: typer.Context, old: Submission, new: Submission, json: Json = False, workspace: Workspace = None) -> None:
    """Compare the sources of two submissions, of one run or of two."""
    import difflib

    from kopt import runs
    from kopt.errors import UsageError

    where = root(ctx, workspace)
    sides = []
    for reference in (old, new):
        name, n = runs.split(reference)
        if not n:
            raise UsageError(f"{reference!r} names a run; kopt diff compares submissions, such as {reference}/1")
        run = _load(runs.resolve(name, where))
        sides.append((run, runs.number(run, n)))
    before, after = (run.source(n).splitlines() for run, n in sides)
    labels = [f"{run.id}/{n}" for run, n in sides]
    lines = list(difflib.unified_diff(before, after, labels[0], labels[1], lineterm=""))
    entries = [run.entry(n) for run, n in sides]
    if json:
        facts = [
            {"submission": label, "score": e.score, "evidence": e.evidence, "parameters": dict(e.submission.parameters)}
            for label, e in zip(labels, entries, strict=True)
        ]
        print_json({"old": facts[0], "new": facts[1], "diff": lines})
        return
    from rich.text import Text

    from kopt.report import single, terminal

    for label, (run, _), entry in zip(labels, sides, entries, strict=True):
        words = terminal.score(entry.score, entry.evidence, run.meta.metric)
        show(Text(f"{label}  {words}  {terminal.assignments(entry.submission.parameters)}".rstrip()))
    show(single.difference(lines) if lines else Text("the sources are the same"))


def _load(folder: Path) -> Run:
    from kopt.run import Run

    return Run.load(folder)
