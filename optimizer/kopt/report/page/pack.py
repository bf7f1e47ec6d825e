"""What would make a page heavy, compressed: articles by the hundred, and all sources as their distinct lines."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

CHUNK = 100
"""Articles that are opened together: unpacking one takes milliseconds."""


class Packed(NamedTuple):
    """A base64 text for a data block of the page."""

    id: str
    first: int
    last: int
    data: str


def pack(value: Any) -> str:
    """JSON, gzip, base64. The same value gives the same text."""
    whole = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode()


def articles(rendered: Mapping[int, str]) -> list[Packed]:
    """Articles by submission in chunks, each {"number": "<article ...>"}."""
    order = sorted(rendered)
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    return [
        Packed(f"articles-{chunk[0]}", chunk[0], chunk[-1], pack({str(n): rendered[n] for n in chunk}))
        for chunk in chunks
    ]


def sources(html: Sequence[str], lines: Mapping[int, Sequence[int]]) -> Packed:
    """Every distinct line once; a source is a list of their numbers."""
    return Packed("sources", min(lines, default=0), max(lines, default=0), pack({"lines": html, "of": lines}))


def inline(value: Any) -> Markup:
    """JSON that may stand in a <script> element, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(char, code)
    return Markup(text)
