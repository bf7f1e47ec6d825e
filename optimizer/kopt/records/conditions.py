"""Conditions on a task's dimensions, as written in task.toml: "S >= T", "HQ % HKV == 0", "M == 1 or N >= 64"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from kopt import syntax

_BINARY: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARED: Mapping[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_GRAMMAR = "integers, names of dimensions, + - * // %, comparisons, and, or, not"


def names(condition: str) -> frozenset[str]:
    """The dimensions that a condition speaks of; ValueError when it is none."""
    tree = _parsed(condition)
    _value(tree, dict.fromkeys(found := _names(tree), 1), condition)
    return found


def holds(condition: str, dims: Mapping[str, int]) -> bool:
    """Whether sizes meet a condition; one that divides by zero is not met."""
    try:
        return bool(_value(_parsed(condition), dims, condition))
    except ZeroDivisionError:
        return False


def _parsed(condition: str) -> ast.expr:
    try:
        return syntax.expression(condition)
    except (SyntaxError, ValueError):
        raise ValueError(f"{condition!r} is no condition; it may hold {_GRAMMAR}") from None


def _names(tree: ast.expr) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _value(node: ast.expr, dims: Mapping[str, int], condition: str) -> Any:
    def value(part: ast.expr) -> Any:
        return _value(part, dims, condition)

    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return dims[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](value(left), value(right))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARED for op in ops):
            values = [value(part) for part in (left, *others)]
            return all(_COMPARED[type(op)](a, b) for op, a, b in zip(ops, values, values[1:], strict=False))
        case ast.BoolOp(op=op, values=parts):
            # All of them, so that a mistake in the last shows.
            truths = [value(part) for part in parts]
            return all(truths) if isinstance(op, ast.And) else any(truths)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not value(part)
    raise ValueError(f"{condition!r} is no condition; it may hold {_GRAMMAR}")
