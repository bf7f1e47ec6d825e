"""What goes to a model and what comes back, in no provider's words. These records are what the journal holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from kopt.records.base import Record

Finish = Literal["stop", "length", "filter", "calls", "unknown"]


class Part(Record):
    """A piece of a reply. `details` is what a provider wants back unchanged, such as the signature of its thinking."""

    kind: Literal["text", "thinking", "call"]
    text: str = ""
    id: str = ""
    """Of a call."""
    name: str = ""
    arguments: str = ""
    """Of a call: JSON as the model wrote it, which need not be valid."""
    details: Mapping[str, Any] = {}


class Tokens(Record):
    """Usage as the provider counts it; `input` includes what came from its cache and what was written to it."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


class Reply(Record):
    """One answer of a model."""

    parts: tuple[Part, ...] = ()
    finish: Finish = "unknown"
    usage: Tokens = Tokens()
    dollars: float | None = None
    """None when the price is unknown, which is not zero."""
    seconds: float = Field(default=0.0, ge=0)

    @property
    def calls(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == "call")

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts if part.kind == "text")


class Answer(Record):
    """What a model is told after a reply: the result of its call `id`, or, with no `id`, a word of kopt's own."""

    text: str
    id: str = ""
    name: str = ""
    ok: bool = True


class Turn(Record):
    """A reply and all that was answered to it."""

    reply: Reply
    answers: tuple[Answer, ...] = ()


class Conversation(Record):
    """All that a request says: the brief, the episode's opening, and the turns since."""

    brief: str
    opening: str
    turns: tuple[Turn, ...] = ()
    asked: int = 0
    """Replies that this model has given in the run before."""


class RequestFailed(Exception):
    """A request without a usable answer. The text is one line and holds no key."""

    def __init__(
        self,
        kind: Literal["retry", "fatal", "tools", "context", "rejected"],
        reason: str,
        *,
        retry_after: float | None = None,
        usage: Tokens | None = None,
        dollars: float | None = None,
    ) -> None:
        """`kind`: "retry" may pass by itself, "fatal" will not, "tools" says that the model has no tool calling,
        "context" that the conversation is too long, "rejected" that this request will not be taken. `usage` and
        `dollars` are what an answer that broke off had cost by then, as far as can be told.
        """
        super().__init__(reason)
        self.kind = kind
        self.retry_after = retry_after
        self.usage = usage
        self.dollars = dollars


class Client(Protocol):
    """A model that can be asked."""

    name: str
    tools: bool
    """Whether it can call tools; without, it is asked for fenced code blocks."""
    max_tokens: int
    """Of one reply."""
    context: int
    """Tokens that a request may hold, or a cautious guess."""

    def done(self, asked: int) -> bool:
        """Whether it has nothing more to say after so many replies; only a recording ever has not."""

    def highest_price(self, conversation: Conversation) -> float | None:
        """Dollars that the next request costs at most; None when the price is unknown."""

    def ask(self, conversation: Conversation, tools: Sequence[tuple[str, str, dict[str, Any]]], pause: Pause) -> Reply:
        """One request, no retries. Raises RequestFailed; lets what `pause` raises pass."""

    def close(self) -> None: ...


class Pause(Protocol):
    """Called while a client waits, a few times a second; raises when the run must end."""

    def __call__(self) -> None: ...


NOISE = 6000
"""Characters of prose in an earlier reply that are sent again: a model that rambled need not read it all once more."""


def trimmed(text: str) -> str:
    if len(text) <= NOISE:
        return text
    return f"{text[: NOISE // 2]}\n… ({len(text) - NOISE} characters left out) …\n{text[-NOISE // 2 :]}"
