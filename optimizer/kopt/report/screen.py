"""The console that everything is printed on."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console

WIDE = 200
"""Columns where there is no terminal: piped tables are for tools, which do not fold lines."""


class Screen(Console):
    """No markup, emoji or highlighting: what is printed is what was meant."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> NoReturn:
        # Rich would leave with exit code 1, which stands for a kernel that failed.
        raise BrokenPipeError


def screen(*, stderr: bool = False) -> Screen:
    """A console for standard output or error, at the terminal's width or wide."""
    made = Screen(stderr=stderr)
    return made if made.is_terminal else Screen(stderr=stderr, width=WIDE)
