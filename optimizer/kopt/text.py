"""Text that a kernel, a model or a stranger wrote, made safe to show: characters, never commands to the screen."""

from __future__ import annotations

import re
import unicodedata

ELLIPSIS = "…"

# Marks that reorder or hide their neighbours (Unicode TR 9 and 36): letters of right-to-left scripts need none of them.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_FIRST_CLAUSE = re.compile(r"(?<=\w)(?:: |; |\. |\.$| - | — )|\n")


def plain(text: str) -> str:
    """The same text with control characters shown as symbols (ESC as ␛) and reordering marks as <U+202E>.

    Newlines and tabs stay. Marks that nobody sees, which could carry words to a model that a person does not read, go.
    """
    return _SUSPECT.sub(lambda match: _shown(match[0]), text)


def line(text: str, width: int | None = None) -> str:
    """`plain` on one line, with runs of white space as one space, cut to `width` characters."""
    short = " ".join(plain(text).split())
    if width is not None and len(short) > width:
        return short[: max(0, width - 1)].rstrip() + ELLIPSIS
    return short


def headline(note: str, width: int = 40) -> str:
    """The first clause of a note: what was done, without the why."""
    first = _FIRST_CLAUSE.split(plain(note).strip(), maxsplit=1)[0]
    return line(first, width)


def percent(fraction: float | None) -> str:
    """ "58.3 %"; nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def counted(count: int, noun: str, plural: str = "") -> str:
    """ "1 trial", "2,000 trials"; with a plural of its own "2 batches"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def behind(quads: int, batches: int) -> str:
    """How often a shape was measured: "20 quads"; batches where the task has no baseline to make quads with."""
    return counted(batches, "batch", "batches") if batches else counted(quads, "quad")


def duration(seconds: float) -> str:
    """Two units at most: "42 s", "3 min 05 s", "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _shown(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(char)
    if char in _REORDERING or category in ("Cc", "Cs", "Co", "Cn"):
        return f"<U+{code:04X}>"
    return "" if category == "Cf" else char


def dollars(amount: float, unpriced: int) -> str:
    """ "$12.30", or "at least $12.30" when some requests have no known price."""
    text = f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:.4f}"
    if not unpriced:
        return text
    return f"at least {text}" if amount else "price unknown"
