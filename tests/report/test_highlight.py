"""Highlighting line by line gives what highlighting the whole file gives, and nothing but text."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from kopt import content
from kopt.report.highlight import MOST_COLUMNS, MOST_LINES, Library

FAMILIES = content.families("fp8_gemm", Path.cwd())

TRICKY = """QQQA docstring
over 'three' lines # no comment
with an endQQQ
a = "no AAA quote" + 'nor QQQ here'  # QQQ nor here
b = QQQone lineQQQ + AAAanotherAAA
c = r"\\" + QQQopens here, \\QQQ not closed
def inside(): "is a string"
QQQ + 'closed'
def outside(x: int = 0x1F) -> str:
    return f"{x}"  # <script>alert(1)</script> & more
""".replace("QQQ", '"' * 3).replace("AAA", "'" * 3)


def text(library: Library, lines: list[int]) -> list[str]:
    return [html.unescape(re.sub(r"</?i[^>]*>", "", library.html[n])) for n in lines]


@pytest.mark.parametrize("source", [*(p.read_text(encoding="utf-8") for p in FAMILIES), TRICKY], ids=lambda s: s[:20])
def test_a_source_reads_the_same_as_it_was_written(source: str) -> None:
    library = Library()
    assert text(library, library.add(source)) == source.removesuffix("\n").split("\n")


def test_strings_over_several_lines_are_strings_and_no_code_in_them_is_coloured() -> None:
    library = Library()
    shown = [library.html[n] for n in library.add(TRICKY)]
    assert [line.count("<i class=s>") >= 1 for line in shown[:3]] == [True] * 3
    assert "<i class=k>" not in shown[6]
    assert shown[8].startswith("<i class=k>def</i> <i class=f>outside</i>")


def test_the_same_line_is_kept_once_and_inside_a_string_it_is_another() -> None:
    library = Library()
    a = library.add("x = 1\nx = 1\n")
    b = library.add('"""\nx = 1\n"""\nx = 1\n')
    assert a[0] == a[1] == b[3]
    assert b[1] != a[0]


@pytest.mark.parametrize(
    "source",
    ["</pre><script>x</script>", "'" * 999, '"' * 1001, "\\" * 5000, "#" * 9000, "\x00\x1b[2J\u202ex",
     "a\rb\x0cc\u2028d", "def f(\n" * 50, "'''" * 333 + "\\"],
)  # fmt: skip
def test_no_source_breaks_out_of_its_lines_or_takes_long(source: str) -> None:
    library = Library()
    lines = library.add(source)
    shown = "".join(library.html[n] for n in lines)
    assert not re.search(r"<(?!i class=[a-z]>|/i>)", shown)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_what_is_shown_of_a_source_is_bounded() -> None:
    library = Library()
    assert len(library.add("x\n" * 100_000)) == MOST_LINES
    assert len(library.html[library.add("y" * 1_000_000)[0]]) <= MOST_COLUMNS + 1
