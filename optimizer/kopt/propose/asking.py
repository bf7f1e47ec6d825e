"""One reply from a model, whatever it takes: what may be spent is reserved before, what was spent is journaled after.

Retries are made here and nowhere else (the providers' own are switched off), so that each is on record and is charged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kopt.propose.conversation import Client, Conversation, Reply, RequestFailed
from kopt.session import Session, Stop
from kopt.text import line

FIRST_TRIES = 4
"""Attempts at a model that has never answered in this run: its address or name is probably wrong."""
OUTAGE = 12 * 3600.0
"""Seconds of failures in a row after which a model that used to answer is given up: a night, not an hour of it."""
LONGEST = 300.0
"""Seconds between two attempts at most."""


class Silent(Exception):
    """The model has nothing more to say."""


class Unanswered(Exception):
    """The model will not answer; the text says why."""


class StartOver(Exception):
    """This conversation cannot go on, another one can; the text says why."""


def pace(failed: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(LONGEST, float(2**failed))


def ask(
    session: Session,
    client: Client,
    conversation: Conversation,
    tools: Sequence[tuple[str, str, dict[str, Any]]],
    wait: Callable[[int], float] = pace,
) -> Reply:
    """Raises Silent, Unanswered, StartOver; Stop when the budget does not allow another request."""
    run = session.run
    episode = run.dialogue.episode.n if run.dialogue.episode else 0
    about = {"episode": episode, "turn": len(conversation.turns) + 1, "model": client.name, "purpose": "episode"}
    asked = run.dialogue.replies[client.name]
    if client.done(asked):
        raise Silent
    conversation = conversation.model_copy(update={"asked": asked})
    failed, first = 0, time.monotonic()
    while True:
        session.check()
        reserved = _reserve(session, client, conversation)
        session.record("request", **about, attempt=failed + 1, reserved=reserved)
        started = time.monotonic()
        try:
            reply = client.ask(conversation, tools, session.check)
        except RequestFailed as failure:
            _failed(session, about, failure, time.monotonic() - started)
            failed += 1
            seconds = _next(failure, failed, first, fresh=not conversation.turns, known=asked > 0)
            _sleep(session, max(seconds, wait(failed), failure.retry_after or 0.0))
            continue
        except Stop as stop:
            # Broken off by us; the provider may charge for it all the same.
            cut = RequestFailed("retry", str(stop), dollars=reserved)
            _failed(session, about, cut, time.monotonic() - started)
            raise
        session.record("reply", **about, **reply.model_dump(mode="json", exclude_defaults=True))
        return reply


def _reserve(session: Session, client: Client, conversation: Conversation) -> float | None:
    price = client.highest_price(conversation)
    spent = session.charges()
    if price is not None and not session.budget.covers(spent, price):
        left = max(0.0, (session.budget.dollars or 0.0) - spent.dollars)
        raise Stop(
            f"the next request could cost ${price:.2f}, and ${left:.2f} of the ${session.budget.dollars:g} are left"
        )
    return None if price is None else round(price, 6)


def _failed(session: Session, about: dict[str, Any], failure: RequestFailed, seconds: float) -> None:
    event: dict[str, Any] = {"kind": failure.kind, "reason": line(str(failure), 500), "seconds": round(seconds, 3)}
    if failure.usage is not None:
        event["usage"] = failure.usage.model_dump(exclude_defaults=True)
    if failure.dollars is not None:
        event["dollars"] = failure.dollars
    session.record("request_failed", **about, **event)


def _next(failure: RequestFailed, failed: int, first: float, *, fresh: bool, known: bool) -> float:
    """Seconds to wait at least before another attempt, unless there should be none."""
    reason = line(str(failure), 300)
    match failure.kind:
        case "fatal":
            raise Unanswered(reason)
        case "tools":
            raise StartOver("the model cannot call tools; it is asked for fenced code blocks instead")
        case "context" | "rejected" if fresh and failed > 1:
            raise Unanswered(reason)
        case "context" | "rejected" if not fresh:
            raise StartOver(reason)
    if not known and fresh and failed >= FIRST_TRIES:
        raise Unanswered(f"{reason} ({failed} attempts)")
    if time.monotonic() - first > OUTAGE:
        raise Unanswered(f"{reason} ({failed} attempts in {OUTAGE / 3600:.0f} hours)")
    return 0.0


def _sleep(session: Session, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        session.check()
        time.sleep(min(left, 0.5))
