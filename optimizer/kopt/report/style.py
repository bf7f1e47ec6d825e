"""How figures look: colours and shapes, the words for what stands behind a number, and fonts for every script."""

from __future__ import annotations

from typing import Any, NamedTuple

INK, FAINT, GRID, LINE, VENDOR = "#1f2328", "#59636e", "#d8dee4", "#0a4f8f", "#00795a"


class Mark(NamedTuple):
    """How a status looks. Colours are Okabe and Ito's, told apart with any colour vision; the shape alone suffices."""

    colour: str
    shape: str
    word: str


MARKS = {
    "passed": Mark("#0072b2", "o", "passed"),
    "rejected": Mark("#d55e00", "X", "rejected"),
    "compile_error": Mark("#b8860b", "^", "compile error"),
    "wrong": Mark("#a8437f", "s", "wrong"),
    "crashed": Mark("#000000", "P", "crashed"),
    "timeout": Mark("#00795a", "D", "timeout"),
    "pending": Mark("#59636e", "|", "no verdict"),
}
BADGES = {
    "modelled": ("MODELLED", "predicted without a GPU", "#fff1c2", "#7a4b00"),
    "measured": ("MEASURED", "on the GPU, by the judge's clock", "#d3f2dd", "#0b5227"),
}


def settings() -> dict[str, Any]:
    return {
        "font.family": fonts(), "font.size": 12, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
        "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.8, "text.parse_math": False, "axes.unicode_minus": False, "svg.fonttype": "path",
    }  # fmt: skip


def fonts() -> list[str]:
    """DejaVu, which ships with matplotlib, and what this machine has for the scripts that it lacks."""
    from matplotlib.font_manager import fontManager

    wanted = (
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "PingFang SC",
        "Noto Sans",
    )
    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in wanted if name in there)]


def drawable(text: str, instead: str) -> str:
    """`text`, or `instead` when the fonts at hand lack glyphs for most of it."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    faces = [get_font(findfont(FontProperties(family=[name]))) for name in fonts()]
    drawn = "".join(c for c in text if any(face.get_char_index(ord(c)) for face in faces))
    return drawn if len(drawn.strip()) * 2 > len(text) else instead
