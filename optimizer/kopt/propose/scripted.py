"""A model that says what was recorded, reply by reply: the demo that needs no provider, and the end-to-end test.

A recording is a folder `recordings/<task>/` with session.jsonl, one chat-completion response a line, in the form that
OpenAI-compatible servers send; `{"$source": "name.py"}` in a call's arguments stands for a file beside it. What the
model said is replayed, never a verdict: kopt judges its kernels like anybody's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kopt.errors import HarnessError, UsageError
from kopt.propose.conversation import Conversation, Finish, Part, Pause, Reply, Tokens

RECORDINGS = Path(__file__).resolve().parent / "recordings"

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter", "tool_calls": "calls"}


class Scripted:
    """A client (see conversation.Client). Its replies cost nothing."""

    name = "scripted"
    tools = True
    max_tokens = 32_768
    context = 1_000_000

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies

    def done(self, asked: int) -> bool:
        return asked >= len(self._replies)

    def highest_price(self, conversation: Conversation) -> float | None:
        return 0.0

    def ask(self, conversation: Conversation, tools: Sequence[tuple[str, str, dict[str, Any]]], pause: Pause) -> Reply:
        return self._replies[conversation.asked]

    def close(self) -> None:
        pass


def load(task: str, folder: Path | None = None) -> Scripted:
    """The recording of a task; UsageError when there is none."""
    folder = folder or RECORDINGS / task
    path = folder / "session.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(p.parent.name for p in RECORDINGS.glob("*/session.jsonl"))) or "none"
        raise UsageError(f"no recorded session for task {task}: --model scripted plays {there}")
    replies = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            replies.append(decode(filled(json.loads(text), folder)))
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            raise HarnessError(f"{path}: line {number} is no recorded reply: {error}") from error
    return Scripted(replies)


def filled(response: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The response with sources in place of their names, and arguments as JSON text, as a provider sends them."""
    for call in response["choices"][0]["message"].get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        if isinstance(arguments, dict):
            for key, value in arguments.items():
                if isinstance(value, dict) and set(value) == {"$source"}:
                    arguments[key] = (folder / Path(value["$source"]).name).read_text(encoding="utf-8")
            call["function"]["arguments"] = json.dumps(arguments)
    return response


def decode(response: dict[str, Any]) -> Reply:
    """A chat-completion response as a reply."""
    choice = response["choices"][0]
    message = choice["message"]
    parts = [Part(kind="text", text=message["content"])] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        parts.append(Part(kind="call", id=call["id"], name=function["name"], arguments=function["arguments"]))
    usage = response.get("usage") or {}
    return Reply(
        parts=tuple(parts),
        finish=_FINISH.get(choice.get("finish_reason") or "", "unknown"),
        usage=Tokens(input=usage.get("prompt_tokens", 0), output=usage.get("completion_tokens", 0)),
        dollars=0.0,
    )
