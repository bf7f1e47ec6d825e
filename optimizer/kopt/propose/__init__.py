"""Who writes the next submission. A proposer drives a session until it has nothing more to offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kopt.errors import UsageError
from kopt.records import Task

if TYPE_CHECKING:
    from kopt.meta import Meta
    from kopt.propose.conversation import Client
    from kopt.session import Session

MODELS = ","
"""Between the names of several models, in the order they take over from one another."""


class Proposer(Protocol):
    """Decides from the session's history alone, so that a resumed run goes on as if nothing had happened."""

    def drive(self, session: Session) -> None: ...


def proposer(meta: Meta, task: Task, folder: Path, workspace: Path) -> Proposer:
    """The proposer that a run was started with: "search", "model:SPECS", "agent:CMD", "replay:RUN"."""
    kind, _, spec = meta.proposer.partition(":")
    start = (folder / "sources" / meta.start).read_text(encoding="utf-8") if meta.start else ""
    if kind == "search":
        from kopt.machine.products import product
        from kopt.propose.search import Search, ladder

        return Search(ladder(task, workspace, start, arch=product(meta.target).arch))
    if kind == "model":
        from kopt.propose.episode import Episodes

        return Episodes([client(name, task) for name in spec.split(MODELS)], start=start)
    if kind == "agent":
        from kopt.propose.agent import Agent

        return Agent(spec, start=start)
    if kind == "replay":
        from kopt.propose.replay import Replay
        from kopt.run import Run
        from kopt.runs import resolve

        return Replay(Run.load(resolve(spec, workspace)))
    if kind == "mcp":
        raise UsageError(f"run {meta.id} is driven by an MCP client: kopt mcp --run {meta.id} goes on with it")
    raise UsageError(f"unknown proposer {meta.proposer!r}; kopt knows search, model, agent and replay")


def check(spec: str, task: Task, workspace: Path) -> None:
    """UsageError when a proposer cannot even begin: no key, no such program, no such run."""
    kind, _, rest = spec.partition(":")
    if kind == "model":
        for name in rest.split(MODELS):
            client(name, task).close()
    elif kind == "agent":
        from kopt.propose.agent import parse

        parse(rest)
    elif kind == "replay":
        from kopt.meta import read_meta
        from kopt.runs import resolve

        old = read_meta(resolve(rest, workspace))
        if old.task != task.name:
            raise UsageError(f"run {old.id} is a run of task {old.task}: kopt run {old.task} --replay {rest}")


def client(spec: str, task: Task) -> Client:
    """The model behind one name of `--model`; UsageError when it cannot be asked at all."""
    if spec == "scripted":
        from kopt.propose.scripted import load

        return load(task.name)
    from kopt.propose.model import ApiModel

    return ApiModel(spec)
