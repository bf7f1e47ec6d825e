"""One file, judged and recorded: into a run that is there, live or at rest, or into a new one of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kopt
from kopt import content, journal, loop
from kopt.budget import Budget
from kopt.errors import KoptError, UsageError
from kopt.evaluate.evaluator import Evaluator
from kopt.interact.socket import Remote
from kopt.machine.choose import choose
from kopt.machine.products import product
from kopt.meta import Meta, create_unnamed, read_meta
from kopt.observe import Observer
from kopt.records import Task, Verdict
from kopt.run import Run
from kopt.runs import is_live
from kopt.session import Session

PROPOSER = "user"
"""Proposer of a run that consists of what a person submitted."""


def submit(
    task_name: str,
    source: str,
    *,
    folder: Path | None = None,
    target: str | None = None,
    gpu: str | None = None,
    modelled: bool = False,
    workspace: Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    note: str = "",
    observer: Observer | None = None,
) -> tuple[Run, Verdict]:
    """Judge `source` and record it in the run at `folder`, or in a new run.

    A run that is live judges it itself, when its turn comes. UsageError when the run is of another task or target.
    """
    root = content.workspace(workspace)
    task = content.load_task(task_name, root)
    meta = _existing(folder, task, target) if folder is not None else None
    if folder is not None and is_live(folder):
        return _join(folder, source, dict(parameters or {}), note)
    if meta:
        key, device = meta.target, loop.place_of(meta)
    else:
        place = choose(target, gpu, modelled=modelled)
        key, device = place.target.key, place.gpu
    given = folder
    shapes, seed = (meta.shapes, meta.seed) if meta else ((), 0)
    with Evaluator(task, target=key, gpu=device, shapes=shapes, seed=seed) as evaluator:
        if folder is None:
            meta = loop.describe(task, evaluator, proposer=PROPOSER, budget=Budget())
            meta = create_unnamed(root / "submissions", meta)
            folder = root / "submissions" / meta.id
        with _kept(folder, new=given is None), journal.Journal(folder / journal.FILE) as log:
            run = Run.load(folder)
            # A person's file is judged whatever the run's own budget says; it is charged all the same.
            session = Session(run, log, evaluator.task, evaluator, Budget(), [observer] if observer else [])
            session.began(kopt=kopt.__version__, toolchain=evaluator.toolchain.model_dump())
            verdict = session.submit(
                source,
                note=note or "submitted by hand",
                origin=PROPOSER,
                parameters=dict(parameters or {}),
            )
            session.ended("one file was submitted by hand")
            return run, verdict


@contextmanager
def _kept(folder: Path, *, new: bool) -> Iterator[None]:
    """A new run in which nothing could be recorded does not stay behind."""
    try:
        yield
    except KoptError:
        if new and not Run.load(folder).entries:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _join(folder: Path, source: str, parameters: dict[str, Any], note: str) -> tuple[Run, Verdict]:
    """Hand the file to the process that drives the run."""
    # An agent that kopt has started may use this command instead of MCP.
    remote = Remote(folder, "agent" if "KOPT_BRIEF" in os.environ else "user")
    arguments = {"source": source, "note": note or "submitted by hand", "parameters": parameters, "trials": 0}
    served = remote.call("evaluate", arguments)
    remote.close()
    if served.submission is None:
        raise UsageError(served.text)
    run = Run.load(folder)
    verdict = run.verdict(served.submission)
    assert verdict is not None
    return run, verdict


def _existing(folder: Path, task: Task, target: str | None) -> Meta:
    meta = read_meta(folder)
    if meta.task != task.name:
        raise UsageError(f"run {meta.id} is a run of task {meta.task}, not of {task.name}")
    if meta.task_sha != task.sha:
        raise UsageError(
            f"task {task.name} has changed since run {meta.id} began; submit without --run to start a new one"
        )
    if target is not None and product(target).key != meta.target:
        raise UsageError(f"run {meta.id} is for {meta.target}, not for {product(target).key}; leave --target out")
    return meta
