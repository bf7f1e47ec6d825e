"""Python source as a tree, from any thread.

CPython 3.11 counts the depth of the tree that it is making in one place for all threads. One that takes over in the
middle, which it can while garbage is collected, leaves it wrong: "SystemError: AST constructor recursion depth
mismatch" (python/cpython#106905). So trees are made one at a time.
"""

from __future__ import annotations

import ast
import threading

_LOCK = threading.RLock()
"""Not a plain one: what is collected in the middle may read a source itself, and must not wait for its own thread."""


def module(text: str) -> ast.Module:
    """As `ast.parse`, its exceptions included."""
    with _LOCK:
        return ast.parse(text)


def expression(text: str) -> ast.expr:
    """Of a single expression, likewise."""
    with _LOCK:
        return ast.parse(text, mode="eval").body
