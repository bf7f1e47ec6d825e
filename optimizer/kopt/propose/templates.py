"""The texts a model sees are Markdown files under briefs/, with a few named slots written `$slot`.

A paragraph with an empty slot is left out, so that nothing is said where nothing is known. What fills a slot is data:
it is never read as a template again, and source code is fenced.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from kopt.text import plain

FOLDER = Path(__file__).resolve().parent / "briefs"
_SLOT = re.compile(r"\$([a-z_]+)")


@cache
def template(name: str) -> str:
    """Text of briefs/<name>.md."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip("\n")


def slots(name: str) -> frozenset[str]:
    return frozenset(_SLOT.findall(template(name)))


def render(name: str, **values: object) -> str:
    """The template with its slots filled; ValueError when a slot is missing or a value has no slot."""
    wanted = slots(name)
    if wanted != set(values):
        odd = ", ".join(sorted(wanted ^ set(values)))
        raise ValueError(f"briefs/{name}.md and what fills it do not agree on: {odd}")
    texts = {key: str(value).strip("\n") for key, value in values.items()}
    kept = [
        paragraph
        for paragraph in template(name).split("\n\n")
        if all(texts[slot].strip() for slot in _SLOT.findall(paragraph))
    ]
    return _SLOT.sub(lambda match: texts[match[1]], "\n\n".join(kept))


def fence(text: str, language: str = "python") -> str:
    """Text as a code block that it cannot close, its control characters shown as symbols."""
    shown = plain(text).rstrip()
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", shown))])
    return f"{ticks}{language}\n{shown}\n{ticks}"


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, whole lines, saying how many are missing."""
    if len(text) <= limit:
        return text
    kept = text[:limit].rsplit("\n", 1)[0]
    return f"{kept}\n… ({len(text) - len(kept)} characters left out)"


def tokens(text: str) -> int:
    """How many tokens a text has at most, near enough: no tokenizer of a provider ships with kopt.

    Counts every long word as several, and every digit and other mark as one, and adds a tenth. Held against Qwen's
    vocabulary of 151,000 on kernels, briefs, digests and prose, this is 10 to 60 % too high and never too low.
    """
    count = 0
    for piece in re.findall(r"[^\W\d_]+|\n\s*|[^\w\s]|\d|_", text):
        if piece[0].isalpha():
            count += -(-len(piece) // 5) if piece.isascii() else len(piece)
        else:
            count += 1
    return -(-11 * count // 10)
