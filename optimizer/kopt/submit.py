"""One file, judged and recorded: into a run that is at rest, or into a new one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopt
from kopt import content, journal, loop
from kopt.budget import Budget
from kopt.errors import UsageError
from kopt.evaluate.evaluator import Evaluator
from kopt.machine.products import DEFAULT_TARGET, product
from kopt.observe import Observer
from kopt.records import Task, Verdict
from kopt.run import Meta, Run, create, read_meta
from kopt.session import Session

PROPOSER = "user"
"""Proposer of a run that consists of what a person submitted."""


def submit(
    task_name: str,
    source: str,
    *,
    folder: Path | None = None,
    target: str | None = None,
    workspace: Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    note: str = "",
    observer: Observer | None = None,
) -> tuple[Run, Verdict]:
    """Judge `source` and record it in the run at `folder`, or in a new run.

    UsageError when the run is of another task or target, or is being written by another process.
    """
    root = content.workspace(workspace)
    task = content.load_task(task_name, root)
    meta = _existing(folder, task, target) if folder is not None else None
    key = meta.target if meta else product(target or DEFAULT_TARGET).key
    shapes, seed = (meta.shapes, meta.seed) if meta else ((), 0)
    with Evaluator(task, target=key, shapes=shapes, seed=seed) as evaluator:
        if folder is None:
            meta = loop.describe(task, evaluator, proposer=PROPOSER, budget=Budget())
            folder = root / "submissions" / meta.id
            create(folder, meta)
        with journal.Journal(folder / journal.FILE) as log:
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
