"""A kernel's syntax tree, rewritten so that loops, branches and helper functions report themselves.

    for k in range(...):      ->  for k in __kopt_for__(range(...), first, last, steady, static):
    while condition:          ->  for _ in __kopt_while__(lambda: condition, first, last):
    if condition:             ->  if __kopt_if__(condition, varies): __kopt_span__(first, last) ...

`steady` says that the syntax shows no way in which one iteration could differ from the next in more than its index.
"""

from __future__ import annotations

import ast
from typing import Any

from triton.runtime.interpreter import ASTTransformer

FOR, WHILE, IF, SPAN = "__kopt_for__", "__kopt_while__", "__kopt_if__", "__kopt_span__"


class Reporter(ASTTransformer):  # type: ignore[misc]
    """Keeps the stock rewriting of assignments. `offset` turns the function's line numbers into the file's."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._loops: list[set[str]] = []
        """Names that each enclosing loop assigns."""
        self._fixed: set[str] = set()
        """Names that are compile-time constants."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        self._fixed = {a.arg for a in arguments if a.annotation is not None and _is_constexpr(a.annotation)}
        parameters = {a.arg for a in arguments} - self._fixed
        self._variable = parameters | _assigned(node.body)
        self.generic_visit(node)
        node.body.insert(0, self._report(SPAN, node))
        return node

    def visit_For(self, node: ast.For) -> Any:
        assigned = _assigned(node.body) | _names(node.target)
        steady = not any(isinstance(inner, ast.Break | ast.Continue | ast.Return) for inner in ast.walk(node))
        static = isinstance(node.iter, ast.Call) and _callee(node.iter) == "static_range"
        iterable = self.visit(node.iter)
        self._loops.append(assigned)
        node.body = [self.visit(statement) for statement in node.body]
        node.orelse = [self.visit(statement) for statement in node.orelse]
        self._loops.pop()
        node.iter = self._call(FOR, iterable, *self._lines(node), ast.Constant(steady), ast.Constant(static))
        return node

    def visit_While(self, node: ast.While) -> Any:
        self._loops.append(_assigned(node.body))
        self.generic_visit(node)
        self._loops.pop()
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        test = ast.Lambda(args=nothing, body=node.test)
        loop = ast.For(
            target=ast.Name(id="__kopt_turn__", ctx=ast.Store()),
            iter=self._call(WHILE, test, *self._lines(node)),
            body=node.body,
            orelse=node.orelse,
        )
        return ast.copy_location(loop, node)

    def visit_If(self, node: ast.If) -> Any:
        varies = self._varies(node.test)
        self.generic_visit(node)
        node.test = self._call(IF, node.test, ast.Constant(varies))
        for body in (node.body, node.orelse):
            if body:
                first, last = body[0].lineno, max(getattr(s, "end_lineno", s.lineno) for s in body)
                body.insert(0, self._report_lines(SPAN, first, last, body[0]))
        return node

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        varies = self._varies(node.test)
        self.generic_visit(node)
        node.test = self._call(IF, node.test, ast.Constant(varies))
        return node

    def _varies(self, test: ast.expr) -> bool:
        """Whether a condition could come out differently in another iteration of an enclosing loop."""
        names = _names(test) - self._fixed
        if any(isinstance(inner, ast.Call) and _callee(inner) == "load" for inner in ast.walk(test)):
            return True
        if self._loops:
            return bool(names & set().union(*self._loops))
        return bool(names & self._variable)

    def _lines(self, node: Any) -> list[ast.expr]:
        return [ast.Constant(node.lineno + self.offset), ast.Constant(node.end_lineno + self.offset)]

    def _call(self, name: str, *args: ast.expr) -> ast.Call:
        return ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=list(args), keywords=[])

    def _report(self, name: str, node: Any) -> ast.Expr:
        return ast.copy_location(ast.Expr(self._call(name, *self._lines(node))), node.body[0])

    def _report_lines(self, name: str, first: int, last: int, at: ast.stmt) -> ast.Expr:
        lines = (ast.Constant(first + self.offset), ast.Constant(last + self.offset))
        return ast.copy_location(ast.Expr(self._call(name, *lines)), at)


def _assigned(body: list[ast.stmt]) -> set[str]:
    return {
        inner.id
        for statement in body
        for inner in ast.walk(statement)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    }


def _names(node: ast.expr) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _callee(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_constexpr(annotation: ast.expr) -> bool:
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    return "constexpr" in str(text)
