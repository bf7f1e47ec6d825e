"""The driver: a proposer proposes, the session judges and journals, until the budget is spent.

`start` makes a run, `resume` replays one; from there on both are the same code.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import kopt
from kopt import content, finale, journal
from kopt.budget import Budget
from kopt.errors import KoptError, MachineError, UsageError
from kopt.evaluate import VERSION
from kopt.evaluate.evaluator import Evaluator
from kopt.interact.socket import Control
from kopt.machine.choose import choose
from kopt.machine.fingerprint import fingerprint
from kopt.meta import Meta, create, create_unnamed, read_meta, write_whole
from kopt.observe import Observer
from kopt.propose import Proposer, check, proposer
from kopt.records import Evidence, Shape, Task
from kopt.run import Run
from kopt.session import Session, Stop
from kopt.shapes import read_shapes
from kopt.source import read
from kopt.work import work

DEFAULT_BUDGET = Budget(submissions=40, trials=36)

START = "start.py"


def drive(session: Session, proposer: Proposer, visitors: AbstractContextManager[object] | None = None) -> str:
    """Run a proposer to its end; returns why it ended. `visitors` is open as long as the run is.

    What it cannot go on from stands in the journal when it is raised.
    """
    try:
        session.finish_pending()
        with visitors or nullcontext():
            proposer.drive(session)
        reason = "the proposer has nothing more to offer"
    except Stop as stop:
        reason = str(stop)
    except KoptError as error:
        with suppress(KoptError):  # what broke may be the disk
            session.record("error", message=str(error))
        raise
    finale.hold(session)
    session.ended(reason)
    return reason


def start(
    task_name: str,
    *,
    target: str | None = None,
    gpu: str | None = None,
    modelled: bool = False,
    workspace: Path | None = None,
    proposer: str = "search",
    seed: int = 0,
    budget: Budget = DEFAULT_BUDGET,
    start: Path | None = None,
    shapes: Path | None = None,
    observer: Observer | None = None,
    name: str | None = None,
    driver: Proposer | None = None,
) -> Run:
    """Make a run and drive it to its end.

    `target`, `gpu` and `modelled` say where (see machine/choose.py): by default the GPU at hand, else a modelled H200.
    `start` is a kernel file to begin from, `shapes` a TOML file of `[[timing]]` tables that replace the task's.
    `driver` stands for the proposer that `proposer` names, where a name is not enough to make one.
    UsageError for anything that does not exist or does not fit; HarnessError when the disk or the workers fail.
    """
    root = content.workspace(workspace)
    task = content.load_task(task_name, root)
    own_shapes = read_shapes(shapes, task) if shapes else ()
    source = read(start) if start else ""
    if driver is None:
        check(proposer, task, root)
    place = choose(target, gpu, modelled=modelled)
    with Evaluator(task, target=place.target.key, gpu=place.gpu, shapes=own_shapes, seed=seed) as evaluator:
        meta = describe(
            task, evaluator, proposer=proposer, seed=seed, budget=budget, shapes=own_shapes, name=name,
            start=START if source else "",
        )  # fmt: skip
        home = root / "submissions"
        if name is None:
            meta = create_unnamed(home, meta)
        else:
            create(home / meta.id, meta)
        folder = home / meta.id
        if source:
            write_whole(folder / "sources" / START, source)
        return _go(folder, meta, task, root, evaluator, budget, observer, driver)


def describe(
    task: Task,
    evaluator: Evaluator,
    *,
    proposer: str,
    seed: int = 0,
    budget: Budget,
    shapes: tuple[Shape, ...] = (),
    start: str = "",
    name: str | None = None,
) -> Meta:
    """What a new run is started with: its own description, that of the evaluator, and that of this machine."""
    now = datetime.now(UTC)
    return Meta(
        id=name or f"{task.name}-{now:%Y%m%d-%H%M%S}",
        created=round(now.timestamp(), 3),
        kopt=kopt.__version__,
        evaluator=VERSION,
        task=task.name,
        task_sha=task.sha,
        target=evaluator.target.key,
        evidence=evaluator.evidence,
        proposer=proposer,
        seed=seed,
        budget=budget,
        metric=task.score.metric,
        shapes=shapes,
        work=work(task, shapes or task.timing),
        start=start,
        toolchain=evaluator.toolchain,
        machine=fingerprint(),
        walls=evaluator.workers.walls(),
    )


def place_of(meta: Meta, gpu: str | None = None) -> str | None:
    """The GPU to go on with, this one (an index or UUID) or the first idle one; None for a modelled run.

    MachineError when a measured run finds none of its product.
    """
    gpu = choose(meta.target, gpu, modelled=meta.evidence is Evidence.MODELLED).gpu
    if gpu is None and meta.evidence is Evidence.MEASURED:
        raise MachineError(
            f"run {meta.id} measures on {meta.target}, and none is in sight; go on where there is one "
            f"(kopt doctor lists GPUs, hidden ones too)"
        )
    return gpu


def resume(
    folder: Path,
    *,
    workspace: Path | None = None,
    gpu: str | None = None,
    budget: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    driver: Proposer | None = None,
) -> Run:
    """Continue a run where its journal ends, on the same kind of GPU; `budget` overrides single limits."""
    root = content.workspace(workspace)
    meta = read_meta(folder)
    task = content.load_task(meta.task, root)
    if task.sha != meta.task_sha:
        raise UsageError(
            f"task {task.name} has changed since run {meta.id} began; start a new run, or judge this one again with "
            f"kopt run {task.name} --replay {meta.id}"
        )
    limits = meta.budget.model_copy(update=dict(budget or {}))
    place = place_of(meta, gpu)
    with Evaluator(task, target=meta.target, gpu=place, shapes=meta.shapes, seed=meta.seed) as evaluator:
        return _go(folder, meta, task, root, evaluator, limits, observer, driver)


def _go(
    folder: Path,
    meta: Meta,
    task: Task,
    workspace: Path,
    evaluator: Evaluator,
    budget: Budget,
    observer: Observer | None,
    driver: Proposer | None,
) -> Run:
    with journal.Journal(folder / journal.FILE) as log:
        run = Run.load(folder)
        session = Session(
            run, log, evaluator.task, evaluator, budget, [observer] if observer else [], _reserve(evaluator, budget)
        )
        session.began(kopt=kopt.__version__, toolchain=evaluator.toolchain.model_dump())
        try:
            with stop_on_signal(session):
                drive(session, driver or proposer(meta, task, folder, workspace), Control(session))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"kopt resume {meta.id} goes on") from None
        return run


def _reserve(evaluator: Evaluator, budget: Budget) -> Callable[[Run], float]:
    measured = evaluator.evidence is Evidence.MEASURED
    return finale.Reserve(budget, len(evaluator.task.timing)) if measured else lambda run: 0.0


@contextmanager
def stop_on_signal(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the current stage; a second one interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        # First, for the second one comes as soon as the first is answered.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        session.request_stop()

    with ExitStack() as restore:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                restore.callback(signal.signal, number, signal.signal(number, handle))
            except ValueError:  # not the main thread: whoever owns it handles signals
                break
        yield
