"""`kopt report`: everything about a run, in files that need nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from kopt.errors import HarnessError
from kopt.report import summary
from kopt.report.collecting import uncollected
from kopt.report.drawing import Draw, here
from kopt.report.ledger import load
from kopt.report.page.believe import believe
from kopt.report.page.render import Page
from kopt.report.page.shapes import shape_rows, vendor
from kopt.report.page.standalone import standalone
from kopt.report.task import about


class Written(NamedTuple):
    """The files of a report."""

    page: Path
    json: Path
    markdown: Path
    png: Path
    svg: Path


def report(folder: Path, workspace: Path, out: Path | None = None, draw: Draw = here) -> Written:
    """Write the report of a run; `out` defaults to reports/<run>. Each file is written whole or not at all.

    HarnessError when the run cannot be read or the files cannot be written.
    """
    with uncollected():
        return _report(folder, workspace, out, draw)


def _report(folder: Path, workspace: Path, out: Path | None, draw: Draw) -> Written:
    following = load(folder)
    page = Page(following, about(following.run.meta, workspace))
    out = out or workspace / "reports" / following.run.id
    _make(out)
    best = page.verdict(page.rows.best.n) if page.rows.best else None
    figures = draw(page.rows, out, vendor(best, page.rows.metric))
    shapes, state = shape_rows(best, page.about), believe(following.run, page.rows, best)
    interval = following.ledger.intervals.get(page.rows.best.n) if page.rows.best else None
    short = summary.as_json(page.rows, shapes, state, interval)
    files = {
        "index.html": standalone(page),
        "summary.json": json.dumps(short, indent=2, ensure_ascii=False, default=str) + "\n",
        "summary.md": summary.as_markdown(page.rows, shapes, state, interval),
    }
    page_, json_, markdown = (_write(out / name, text) for name, text in files.items())
    return Written(page_, json_, markdown, *figures())


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"cannot make {out}: {error.strerror}") from error


def _write(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(path)
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}") from error
    return path
