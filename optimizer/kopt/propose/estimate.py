"""What a run with a model will cost, roughly, said before it starts."""

from __future__ import annotations

from kopt.budget import Budget
from kopt.propose.conversation import Tokens

DOLLARS = 20.0
"""The cap that holds unless it is raised on purpose."""
TOKENS = 60_000_000
"""The cap on tokens, which also holds where prices are unknown."""
CALLS = 2000
"""Tool calls of a day-long run."""

TYPICAL = Tokens(input=20_000, cache_read=15_000, output=1500)
"""A request in the middle of an episode: brief, digest and half a conversation, most of it in the provider's cache."""


def limits(budget: Budget) -> Budget:
    """The budget of a run with a model, with the caps that hold unless others are given."""
    caps = {"dollars": DOLLARS, "tokens": TOKENS, "tool_calls": CALLS}
    return budget.model_copy(update={name: cap for name, cap in caps.items() if getattr(budget, name) is None})


def estimate(specs: list[str], budget: Budget) -> list[str]:
    """A line per model; its price is unknown where the table does not know it."""
    from kopt.propose.prices import price
    from kopt.propose.spec import parse

    lines = []
    for spec in specs:
        if spec == "scripted":
            lines.append("scripted: a recording, it costs nothing")
            continue
        provider, name, url = parse(spec)
        each = price(TYPICAL, name, provider, url)
        calls = budget.tool_calls or CALLS
        if each is None:
            lines.append(f"{spec}: its price is unknown, so no cap in dollars holds; {_tokens(budget)}")
        else:
            capped = f"; the cap is ${budget.dollars:g}" if budget.dollars is not None else "; there is no cap"
            lines.append(f"{spec}: about ${each * calls:.2f} for {calls} tool calls{capped}")
    return lines


def _tokens(budget: Budget) -> str:
    return f"the cap is {budget.tokens:,} tokens" if budget.tokens is not None else "there is no cap on tokens either"
