"""What a reply asks for: its tool calls, or, from a model that has none, the one fenced block it holds."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from kopt.interact.arguments import TOOLS
from kopt.propose.conversation import Reply
from kopt.propose.templates import render
from kopt.text import line

_FENCE = re.compile(r"^(`{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)


class Action(NamedTuple):
    """One call. `id` is the provider's, "" for a call that was read from a fence."""

    id: str
    name: str
    arguments: str


class Nothing(NamedTuple):
    """A reply that asks for nothing, and what to answer."""

    why: str
    answer: str


def actions(reply: Reply, entry: str, max_tokens: int) -> tuple[Action, ...] | Nothing:
    """`entry` is the function that a kernel file must define."""
    if reply.calls:
        return tuple(Action(part.id, part.name, part.arguments) for part in reply.calls)
    if reply.finish == "filter":
        return Nothing("the provider's content filter ended the reply", render("refused"))
    blocks = [(language.lower(), text) for _, language, text in _FENCE.findall(reply.text)]
    kernels = [text for language, text in blocks if language in ("", "python", "py") and f"def {entry}" in text]
    if len(kernels) == 1:
        arguments = {"source": kernels[0], "note": _note(reply.text)}
        return (Action("", "evaluate", json.dumps(arguments)),)
    if len(kernels) > 1:
        return Nothing(f"{len(kernels)} kernels in one reply", render("two_blocks", count=len(kernels)))
    if (asked := _asked(blocks)) is not None:
        return (asked,)
    python = [text for language, text in blocks if language in ("python", "py")]
    if python and reply.finish != "length":
        # Not this task's entry, but a whole file: the policy names what is missing, and it is charged like any other.
        return (Action("", "evaluate", json.dumps({"source": python[-1], "note": _note(reply.text)})),)
    if reply.finish == "length":
        return Nothing("the reply was cut at its token limit", render("cut", limit=max_tokens))
    if not reply.text.strip():
        return Nothing("an empty reply", render("prose"))
    return Nothing("prose only", render("prose"))


def _asked(blocks: list[tuple[str, str]]) -> Action | None:
    """A tool call written as JSON."""
    for language, text in blocks:
        if language not in ("json", ""):
            continue
        try:
            value = json.loads(text, strict=False)
            arguments = json.dumps(value.get("arguments", {})) if isinstance(value, dict) else ""
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(tool := value.get("tool"), str) and tool in TOOLS:
            return Action("", tool, arguments)
    return None


def _note(text: str) -> str:
    """The first line of prose outside the fences."""
    prose = _FENCE.sub("", text)
    lines = (line(part.lstrip("#*- "), 300) for part in prose.splitlines())
    return next((part for part in lines if part), "no note")
