"""Fields of what an untrusted process says: each of its type, and no larger than anything honest, or it is Nonsense.

JSON has nested lists that cannot be printed, integers that are no floats, and floats that are no numbers. Whatever is
read through here can be added up, printed and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LARGEST = 1 << 53
"""What no count, size or time exceeds: above it floats skip integers."""
_WORD = 1 << 64
"""Addresses and arguments of kernels lie within this, of either sign."""


class Nonsense(ValueError):
    """What was said is not of its form. Its text is kopt's own."""


@contextmanager
def understood() -> Iterator[None]:
    """Nonsense for whatever goes wrong where an untrusted report is taken apart."""
    try:
        yield
    except Nonsense:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Nonsense(type(error).__name__) from None


def text(value: Any, most: int = 300) -> str:
    """A string, cut to `most` characters."""
    if not isinstance(value, str):
        raise Nonsense("a text is none")
    return value[:most]


def items(value: Any, most: int) -> list[Any]:
    """A list, cut to `most` items."""
    if not isinstance(value, list | tuple):
        raise Nonsense("a list is none")
    return list(value[:most])


def table(value: Any) -> dict[str, Any]:
    """An object; its keys are strings, as JSON has them."""
    if not isinstance(value, dict):
        raise Nonsense("an object is none")
    return value


def whole(value: Any) -> int:
    """An integer that fits a word."""
    if not isinstance(value, int) or not -_WORD < value < _WORD:
        raise Nonsense("an integer is none, or fits no word")
    return int(value)


def count(value: Any) -> int:
    """An integer from 0 to LARGEST."""
    if not 0 <= whole(value) <= LARGEST:
        raise Nonsense("a count is none")
    return int(value)


def amount(value: Any) -> float:
    """A number from 0 to LARGEST."""
    if not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise Nonsense("an amount is none")
    return float(value)


def scalar(value: Any) -> bool | int | float | str | None:
    """What a kernel may be given as a number or a constant. What fits no word is said in words: its first digits."""
    if isinstance(value, str):
        return value[:1000]
    if isinstance(value, float) and not math.isfinite(value):
        raise Nonsense("a number is none")
    if isinstance(value, int) and not -_WORD < value < _WORD:
        return str(value)[:80]
    if not isinstance(value, bool | int | float | None):
        raise Nonsense("a scalar is none")
    return value
