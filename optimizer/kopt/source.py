"""What a kernel file says about itself, read from its syntax tree and never by importing it."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from kopt import syntax
from kopt.errors import UsageError
from kopt.records import Parameters

MAX_BYTES = 1 << 20
"""Of a kernel file."""

Choice = int | float | str | bool


class SourceError(ValueError):
    """A kernel file that cannot be read; carries the rule and the line."""

    def __init__(self, rule: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.line = line


@dataclass(frozen=True)
class KernelSource:
    """The declarative surface of a kernel file."""

    text: str
    tree: ast.Module = field(repr=False)
    entry: ast.FunctionDef = field(repr=False)
    title: str
    """First line of the module's docstring."""
    defaults: Parameters
    """Keyword-only parameters of the entry and their default values, where they are literals."""
    keyword_only: tuple[str, ...]
    tune: Mapping[str, tuple[Choice, ...]]
    """The tunable space, in the order the file gives it; empty when the file is no family."""
    rung: int | None
    kind: str
    """Structural class ("tma-persistent", ...), or ""."""
    archs: tuple[int, ...] = ()
    """Architectures it is written for, such as 90; () for all."""

    @property
    def positional(self) -> int:
        return len(self.entry.args.posonlyargs) + len(self.entry.args.args)

    @property
    def is_gluon(self) -> bool:
        return any("gluon" in name for name, _ in imported_modules(self.tree))


def parse(text: str, entry: str) -> KernelSource:
    """Read a kernel file; SourceError names what is missing or malformed, and the line."""
    try:
        tree = syntax.module(text)
    except SyntaxError as error:
        raise SourceError("policy.syntax", f"syntax error: {error.msg}", error.lineno) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError("policy.syntax", f"not Python: {type(error).__name__}: {error}") from error
    _readable(text, tree)
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry]
    if not functions:
        raise SourceError("policy.entry", f"no function {entry}() at the top level of the file")
    function = functions[-1]
    constants = _constants(tree)
    keyword_only = tuple(a.arg for a in function.args.kwonlyargs)
    title = (ast.get_docstring(tree) or "").strip().splitlines()
    rung = constants.get("RUNG")
    kind = constants.get("CLASS")
    return KernelSource(
        text=text,
        tree=tree,
        entry=function,
        title=title[0].strip() if title else "",
        defaults=_defaults(function),
        keyword_only=keyword_only,
        tune=_tune(tree, constants, keyword_only, entry),
        rung=rung if isinstance(rung, int) else None,
        kind=kind if isinstance(kind, str) else "",
        archs=_archs(constants.get("ARCHS")),
    )


_CODING = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_NUMBER = 1 << 64


def _readable(text: str, tree: ast.Module) -> None:
    """SourceError where what runs would not be what is read here, or what is read cannot be written down."""
    for number, line in enumerate(re.split("\r\n|\r|\n", text, maxsplit=2)[:2], 1):
        found = _CODING.match(line)
        if found and found[1].lower().replace("_", "-") not in ("utf-8", "utf8"):
            # The interpreter would decode the file by it, and comments may turn into code.
            raise SourceError("policy.encoding", f"a kernel file is UTF-8, not {found[1]}", number)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value >= _NUMBER:
            raise SourceError("policy.number", "an integer of more than 64 bits", node.lineno)


def essence(text: str, entry: str, parameters: Parameters | None = None) -> str:
    """Identity of what a file does at these parameters, in hex: comments, docstrings and layout do not count, nor does
    pinning a parameter to its default.
    """
    code, defaults = _code(text, entry)
    pinned = {name: value for name, value in (parameters or {}).items() if defaults.get(name) != value}
    return hashlib.sha256(f"{sorted(pinned.items())}\n{code}".encode()).hexdigest()


@lru_cache(maxsize=4)  # a submission asks several times, of itself and of its tuned self
def _code(text: str, entry: str) -> tuple[str, Parameters]:
    """The syntax tree without docstrings, as text, and the entry's defaults; the text itself when it is not Python."""
    try:
        tree = syntax.module(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text.strip(), {}
    defaults: Parameters = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            defaults = _defaults(node)
    try:
        return ast.dump(tree), defaults
    except (RecursionError, ValueError):  # deep sums parse, and so do numbers too long to be written down
        return text.strip(), defaults


def read(path: Path) -> str:
    """The text of a kernel file, lines as Python reads them; UsageError for what is none: a device, or too large."""
    try:
        # A pipe that nobody writes to must not be waited for, and a device may have no end.
        with open(path, "rb", opener=lambda name, how: os.open(name, how | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"cannot read {path}: it is no regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which no kernel file may be")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def imported_modules(tree: ast.AST) -> list[tuple[str, int]]:
    """Dotted names of all a file imports (`from a import b` is a.b), with lines; relative ones begin with dots."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            found += [(f"{stem}.{alias.name}", node.lineno) for alias in node.names]
    return found


def _archs(value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, tuple | list) else ()
    return tuple(arch for arch in listed if isinstance(arch, int))


def _constants(tree: ast.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                try:
                    found[name] = ast.literal_eval(value)
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    if name == "TUNE":
                        raise SourceError(
                            "policy.tune", "TUNE must be a literal dictionary of parameter name to choices", node.lineno
                        ) from None
    return found


def _defaults(function: ast.FunctionDef) -> dict[str, Choice]:
    found: dict[str, Choice] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if isinstance(default, ast.Constant) and isinstance(default.value, int | float | str | bool):
            found[argument.arg] = default.value
    return found


def _tune(
    tree: ast.Module, constants: Mapping[str, object], keyword_only: tuple[str, ...], entry: str
) -> dict[str, tuple[Choice, ...]]:
    raw = constants.get("TUNE", {})
    line = next(
        (
            node.lineno
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and any(isinstance(n, ast.Name) and n.id == "TUNE" for n in ast.walk(node))
        ),
        None,
    )
    if not isinstance(raw, dict):
        raise SourceError("policy.tune", "TUNE must be a dictionary of parameter name to choices", line)
    space: dict[str, tuple[Choice, ...]] = {}
    for name, choices in raw.items():
        if name not in keyword_only:
            known = ", ".join(keyword_only) or "none"
            raise SourceError(
                "policy.tune", f"TUNE names {name!r}, which is no keyword-only parameter of {entry}() ({known})", line
            )
        if not isinstance(choices, list | tuple) or not choices:
            raise SourceError("policy.tune", f"TUNE[{name!r}] must be a list with at least one choice", line)
        if not all(isinstance(choice, int | float | str | bool) for choice in choices):
            raise SourceError("policy.tune", f"TUNE[{name!r}] may hold numbers, strings and booleans only", line)
        space[str(name)] = tuple(dict.fromkeys(choices))
    return space
