"""The templates of all pages: how a number, a text and a source become HTML. Autoescaped throughout."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kopt.records import Quantity
from kopt.report.highlight import Library
from kopt.report.page import chart as charts
from kopt.text import duration, headline, line, percent, plain

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
WORDS = {"compile_error": "compile error", "pending": "no verdict yet"}


def render(name: str, **values: Any) -> str:
    """A template with these values."""
    text: str = _environment().get_template(name).render(**values)
    return text


def sheet(name: str, **values: Any) -> str:
    """A page of the same look that shows no run."""
    return render(name, **values, **assets("page.js"))


def assets(*scripts: str) -> dict[str, Any]:
    """Style and script as they stand in files, with the hashes that a content security policy allows them by."""
    css = _asset("page.css")
    js = "".join(_asset(name) for name in scripts)
    return {"css": Markup(css), "js": Markup(js), "css_hash": _hash(css), "js_hash": _hash(js)}


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kopt" / "templates"
    kept = None
    with contextlib.suppress(OSError, RuntimeError):  # compiling anew costs a few tenths of a second
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = FileSystemBytecodeCache(str(cache)) if os.access(cache, os.W_OK) else None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=kept,
    )
    environment.filters.update(
        percent=percent,
        duration=duration,
        line=line,
        plain=plain,
        headline=headline,
        quantity=quantity,
        short=_short,
        word=lambda status: WORDS.get(status, status),
        code=_code,
    )
    environment.globals.update(score=charts.score, look=charts.look)
    return environment


def quantity(value: Quantity | None, scale: float = 1.0, digits: int | None = None) -> Markup:
    """A number, with its interval where there is one."""
    if value is None:
        return Markup("")

    def text(number: float) -> str:
        number *= scale
        places = digits if digits is not None else 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
        return f"{number:,.{places}f}"

    shown = escape(text(value.value))
    if value.low is None or value.high is None:
        return shown
    return shown + Markup(' <small class="interval">{} to {}</small>').format(text(value.low), text(value.high))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _code(library: Library, lines: Sequence[int]) -> Markup:
    """Highlighted lines: the library has escaped them."""
    return Markup("\n".join(library.html[number] for number in lines))


def css_hash() -> str:
    return _hash(_asset("page.css"))
