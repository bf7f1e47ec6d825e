"""Python sources as highlighted HTML, line by line and with memory.

The submissions of a run repeat most of each other's lines. Each distinct line is highlighted, kept and later stored
once; a source is a list of line numbers, which is also what differences are computed on.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from markupsafe import escape

from kopt.text import plain

MOST_LINES, MOST_COLUMNS = 4000, 1000
"""What is shown of a source: more than any kernel needs, and a bound for what a hostile one can cost."""
COLOURED = 6_000
"""Distinct lines that are highlighted; a run of many thousand submissions shows the rest as it is."""

_OPENING = re.compile(r"#|'''|\"\"\"|'(?:\\.|[^'\\])*'?|\"(?:\\.|[^\"\\])*\"?")


class Library:
    """Every distinct line of the sources that were added, by number."""

    def __init__(self) -> None:
        self.html: list[str] = []
        self._known: dict[str, dict[str, tuple[int, str]]] = {"": {}, "'''": {}, '"""': {}}
        """By open quote and line: the line's number, and the quote that is open after it."""
        self._by_html: dict[str, int] = {}

    def add(self, source: str) -> list[int]:
        """The source as line numbers."""
        found, quote = [], ""
        for text in source.removesuffix("\n").split("\n")[:MOST_LINES]:
            known = self._known[quote].get(text)
            if known is None:
                known = self._known[quote][text] = self._learn(quote, text)
            number, quote = known
            found.append(number)
        return found

    def _learn(self, quote: str, text: str) -> tuple[int, str]:
        shown = text[:MOST_COLUMNS] + ("…" if len(text) > MOST_COLUMNS else "")
        if len(self.html) < COLOURED:
            html, after = self._highlight(quote, plain(shown))
        else:
            html, after = str(escape(plain(shown))), quote
        # The same text inside and outside of a string is two lines.
        number = self._by_html.setdefault(html, len(self.html))
        if number == len(self.html):
            self.html.append(html)
        return number, after

    def _highlight(self, quote: str, line: str) -> tuple[str, str]:
        """HTML of one line that begins inside `quote`, or outside of any; and the quote it ends in."""
        html = ""
        if quote:
            end = _end(line, 0, quote)
            if end < 0:
                return _span("s", line), quote
            html, line = _span("s", line[:end]), line[end:]
        opened = _opened(line)
        if opened is None:
            return html + self._tokens(line), ""
        at, quote = opened
        return html + self._tokens(line[:at]) + _span("s", line[at:]), quote

    def _tokens(self, code: str) -> str:
        if not code.strip():
            return code
        parts: list[tuple[str, str]] = []
        for _, kind, text in self._lexer.get_tokens_unprocessed(code):
            cls = self._class(kind)
            if parts and parts[-1][0] == cls:
                parts[-1] = (cls, parts[-1][1] + text)
            else:
                parts.append((cls, text))
        return "".join(_span(cls, text) for cls, text in parts)

    def _class(self, kind: Any) -> str:
        known = self._classes.get(kind)
        if known is None:
            known = self._classes[kind] = next((cls for parent, cls in self._kinds if kind in parent), "")
        return known

    @cached_property
    def _classes(self) -> dict[Any, str]:
        return {}

    @cached_property
    def _kinds(self) -> tuple[tuple[Any, str], ...]:
        from pygments.token import Comment, Keyword, Name, Number, Operator, String

        return (
            (Keyword, "k"), (Operator.Word, "k"), (Comment, "c"), (String, "s"), (Number, "n"), (Name.Function, "f"),
            (Name.Class, "f"), (Name.Decorator, "d"), (Name.Builtin, "b"),
        )  # fmt: skip

    @cached_property
    def _lexer(self) -> Any:
        from pygments.lexers.python import PythonLexer

        return PythonLexer()


def _span(cls: str, text: str) -> str:
    # Written once a token: <i class=k> is half as long as a span with quotes.
    return f"<i class={cls}>{escape(text)}</i>" if cls and text else str(escape(text))


def _end(line: str, start: int, quote: str) -> int:
    """Where a string that `quote` opened ends, or -1."""
    at = start
    while (at := line.find(quote, at)) >= 0:
        slashes = len(line[:at]) - len(line[:at].rstrip("\\"))
        if slashes % 2 == 0:
            return at + len(quote)
        at += 1
    return -1


def _opened(line: str) -> tuple[int, str] | None:
    """Where a line opens a triple quote that it does not close, and which."""
    at = 0
    while (match := _OPENING.search(line, at)) is not None:
        token = match[0]
        if token == "#":
            return None
        if token in ("'''", '"""'):
            end = _end(line, match.end(), token)
            if end < 0:
                return match.start(), token
            at = end
        else:
            at = match.end()
    return None
