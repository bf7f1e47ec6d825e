"""What whoever writes the kernels is told before anything else: the brief, what this episode is for, the run so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kopt.budget import Budget
from kopt.interact.arguments import TOOLS
from kopt.meta import Meta
from kopt.propose import brief as briefs
from kopt.propose.digest import digest
from kopt.propose.estimate import limits
from kopt.propose.plateau import Plan, plan
from kopt.propose.templates import render, slots
from kopt.records import Task
from kopt.run import Run
from kopt.session import Session
from kopt.text import line


def opening(run: Run, planned: Plan) -> str:
    """The first message of an episode: what it is for, and the run so far."""
    values: dict[str, Any] = {"stale": run.stale, "parent": planned.parent}
    mode = render(planned.mode, **{key: values[key] for key in slots(planned.mode)})
    direction = f"The direction: {line(planned.direction, 600)}" if planned.direction else ""
    return render("opening", mode=mode, direction=direction, digest=digest(run))


def begin_from(session: Session, start: str) -> None:
    """The user's own kernel is the first submission, so that all others are held against it."""
    if start and not session.run.entries:
        session.submit(start, note="The kernel to start from", origin="user")


def shown(task: Task, target: str, *, tools: bool = True, measured: bool = False) -> str:
    """What a model sees at the start of a new run of this task, word by word."""
    empty = Run(Path(), Meta.model_construct(id="", task=task.name, target=target, metric=task.score.metric))
    text = briefs.brief(task, target, limits(Budget()), measured=measured, tools=how_to_act(tools))
    return f"{text}\n\n{opening(empty, plan(empty, ()))}"


def first_message(session: Session) -> str:
    """What an agent or an MCP client sees first: the brief, then the run so far."""
    brief = briefs.brief(
        session.task, session.run.meta.target, session.budget, measured=session.measures, tools=render("client")
    )
    return f"{brief}\n\n{opening(session.run, plan(session.run, ()))}"


def how_to_act(tools: bool) -> str:
    return briefs.with_tools() if tools else briefs.fenced([(name, text) for name, (_, text) in TOOLS.items()])
