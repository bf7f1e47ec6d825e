"""What a stranger wrote is shown as characters and never acts on the screen."""

from __future__ import annotations

import unicodedata

import pytest

from kopt.text import headline, line, percent, plain

HOSTILE = [
    "\x1b[2J\x1b[31mgone", "bell\x07 and back\x08space", "\u202egnp.txt", "\x9b31m", "a\x00b", "\u2066hidden\u2069",
    "[red]markup[/red]", "\ud800", "\r overwritten", "zero\u200bwidth", "line\u2028separator",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_or_reordering_character_survives(text: str) -> None:
    for shown in (plain(text), line(text), headline(text)):
        assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") or 0x202A <= ord(c) <= 0x202E]
        assert not set(shown) & set("\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def test_an_escape_is_shown_rather_than_dropped() -> None:
    assert plain("\x1b[31m") == "␛[31m"
    assert plain("\u202e") == "<U+202E>"


@pytest.mark.parametrize("mark", ["\u200b", "\u2060", "\ufeff", "\u00ad", "\U000e0041"])
def test_a_mark_that_nobody_sees_is_dropped(mark: str) -> None:
    assert plain(f"in{mark}visible") == "invisible"


@pytest.mark.parametrize("text", ["größer", "更深的流水线", "مرحبا", "שלום", "naïve → fast", "tab\there"])
def test_letters_of_every_script_stay(text: str) -> None:
    assert plain(text) == text


def test_a_line_has_no_breaks_and_keeps_to_its_width() -> None:
    assert line("a\nb\t c") == "a b c"
    assert line("x" * 50, 10) == "x" * 9 + "…"
    assert len(line("word " * 20, 11)) <= 11


@pytest.mark.parametrize(
    ("note", "first"),
    [
        ("TMA descriptors: let the copy engine move the tiles", "TMA descriptors"),
        ("Four stages; that fits", "Four stages"),
        ("One program per SM. Then more", "One program per SM"),
        ("BLOCK_M 128 -> 256", "BLOCK_M 128 -> 256"),
        ("\n\nLate start\nmore", "Late start"),
        ("scale 1.5: x", "scale 1.5"),
        ("", ""),
    ],
)
def test_a_headline_is_the_first_clause(note: str, first: str) -> None:
    assert headline(note) == first


def test_percentages_have_one_decimal_and_none_is_blank() -> None:
    assert (percent(0.7128), percent(0.0), percent(None)) == ("71.3 %", "0.0 %", "")
