"""The text of a published file: a submission's source with its chosen parameters written in, and nothing else changed.

The source is edited at the places its syntax tree names, so that comments and layout stay the author's.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from kopt import syntax
from kopt.errors import UsageError
from kopt.records import Parameters, Task

TUNED = "_tuned"
"""Name of the submission's own entry where the published one chooses its parameters by shape."""
TABLE = "CONFIGURATIONS"
"""Name of its parameters by shape."""
NEAREST = "_nearest"
"""Name of the function that finds those of a shape that was not measured."""
_DROPPED = frozenset({"TUNE", "RUNG"})
"""What speaks of a search that is over."""


_WIDTH = 120
"""Of a line that is written here, at most."""


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def compose(
    source: str, task: Task, parameters: Parameters, configurations: Mapping[str, Parameters], header: str
) -> str:
    """A file that keeps the kernel contract. `configurations` are by timing shape, over `parameters`.

    UsageError when a parameter has no default in the source that could be replaced, or no value that can be written.
    """
    for name, value in (item for chosen in (parameters, *configurations.values()) for item in chosen.items()):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{task.entry}(): parameter {name} is {value}, which Python has no literal for")
    tree = syntax.module(source)
    at = _offsets(source)
    data = source.encode()
    entry = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == task.entry][-1]
    edits = list(_pinned(entry, parameters, at))
    edits += _dropped(tree, data, at)
    if configurations:
        words = {word for node in ast.walk(tree) for word in _words(node)}
        tuned, table, nearest = (_free(name, words) for name in (TUNED, TABLE, NEAREST))
        edits += _renamed(tree, task.entry, tuned, data, at)
    for edit in sorted(edits, reverse=True):
        data = data[: edit.start] + edit.text.encode() + data[edit.end :]
    text = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines()) + "\n" + data.decode().lstrip("\n")
    text = text.rstrip("\n") + "\n"
    if configurations:
        text += _dispatch(task, entry, configurations, tuned, table, nearest)
    try:
        syntax.module(text)
    except SyntaxError as error:
        raise UsageError(f"{task.entry}(): its published file would be no Python: {error}") from error
    return text


def dimension(task: Task, name: str) -> tuple[str, int]:
    """An input and the axis of it whose size is this dimension."""
    for spec in task.inputs:
        if name in spec.dims:
            return spec.name, spec.dims.index(name)
    raise UsageError(f"task {task.name}: no input has dimension {name}, so its size cannot be read from a call")


def _pinned(entry: ast.FunctionDef, parameters: Parameters, at: _Offsets) -> list[_Edit]:
    found = {}
    for argument, default in zip(entry.args.kwonlyargs, entry.args.kw_defaults, strict=True):
        if isinstance(default, ast.expr):
            found[argument.arg] = default
    edits = []
    for name, value in parameters.items():
        default = found.get(name)
        if default is None:
            raise UsageError(f"{entry.name}() has no keyword-only parameter {name} whose default could be set")
        start, end = at(default.lineno, default.col_offset), at(default.end_lineno or 0, default.end_col_offset or 0)
        edits.append(_Edit(start, end, repr(value)))
    return edits


def _free(name: str, taken: Collection[str]) -> str:
    """`name`, or with underscores behind it what the author has not taken."""
    while name in taken:
        name += "_"
    return name


def _renamed(tree: ast.Module, name: str, new: str, data: bytes, at: _Offsets) -> list[_Edit]:
    edits = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            start = data.index(name.encode(), at(node.lineno, node.col_offset) + len("def"))
            edits.append(_Edit(start, start + len(name), new))
        elif isinstance(node, ast.Name) and node.id == name:
            edits.append(_Edit(at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0),
                               new))  # fmt: skip
    return edits


def _dispatch(
    task: Task,
    entry: ast.FunctionDef,
    configurations: Mapping[str, Parameters],
    tuned: str,
    table: str,
    nearest: str,
) -> str:
    """The entry that callers see: at a measured shape its parameters, elsewhere those of the nearest one, so that where
    one choice gives way to another was measured on both sides."""
    dims = list(task.dims)
    places = [dimension(task, name) for name in dims]
    arguments = [a.arg for a in (*entry.args.posonlyargs, *entry.args.args)]
    # The author's names for the tensors, in the task's order.
    named = dict(zip((t.name for t in task.tensors), arguments, strict=True))
    sizes = ", ".join(f"{named[tensor]}.shape[{axis}]" for tensor, axis in places)
    chosen: dict[tuple[int, ...], tuple[str, Parameters]] = {}
    for shape in task.timing:
        key = tuple(shape.dims[d] for d in dims)
        if key not in chosen or shape.name in configurations:
            chosen[key] = shape.name, configurations.get(shape.name, {})
    rows = "".join(_row(key, name, of) for key, (name, of) in chosen.items())
    comma = "," if len(dims) == 1 else ""
    given, local = ", ".join(arguments), _free("parameters", arguments)
    return (
        f"\n\n# Chosen by shape, ({', '.join(dims)}); any other takes what the nearest does, by the ratios of sizes.\n"
        f"{table} = {{\n{rows}}}\n\n\n"
        f"def {nearest}(sizes):\n"
        f"    if sizes in {table}:\n"
        f"        return {table}[sizes]\n"
        f"    found, least = {{}}, 0.0\n"
        f"    for known, chosen in {table}.items():\n"
        f"        apart = 1.0\n"
        f"        for one, other in zip(sizes, known, strict=True):\n"
        f"            apart *= max(one, other) / max(1, min(one, other))\n"
        f"        if not least or apart < least:\n"
        f"            found, least = chosen, apart\n"
        f"    return found\n\n\n"
        f"def {task.entry}({given}):\n"
        f"    try:\n"
        f"        {local} = {nearest}(({sizes}{comma}))\n"
        f"    except IndexError:  # a tensor of another rank: whoever looks at it names it\n"
        f"        {local} = {{}}\n"
        f"    {tuned}({given}, **{local})\n"
    )


def _row(key: tuple[int, ...], name: str, parameters: Parameters) -> str:
    """A shape's parameters, with its timing shape's name; a line each where one does not hold them."""
    items = [f"{json.dumps(word)}: {value!r}" for word, value in parameters.items()]
    line = f"    {key!r}: {{{', '.join(items)}}},  # {name}\n"
    if len(line) <= _WIDTH + 1:  # its end is no column
        return line
    inner = "".join(f"        {item},\n" for item in items)
    return f"    {key!r}: {{  # {name}\n{inner}    }},\n"


def _dropped(tree: ast.Module, data: bytes, at: _Offsets) -> Iterator[_Edit]:
    """The lines of assignments that nothing else in the file can tell are gone; any other stays where it is."""
    own: dict[ast.Assign | ast.AnnAssign, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and (name := _dropped_name(node)):
            own[node] = name
    targets = {node.targets[0] if isinstance(node, ast.Assign) else node.target for node in own}
    words = {word for node in ast.walk(tree) if node not in targets for word in _words(node)}
    for statement, name in own.items():
        last = statement.end_lineno or 0
        start, end, after = at(statement.lineno, 0), at(last, statement.end_col_offset or 0), at(last + 1, 0)
        rest = data[end:after].strip()
        alone = statement.col_offset == 0 and (not rest or rest.startswith(b"#"))
        if name not in words and alone and not data[:start].rstrip(b"\r\n").endswith(b"\\"):
            yield _Edit(start, after, "")


def _dropped_name(node: ast.stmt) -> str:
    """What a statement of one target and a literal value calls it, if that speaks of the search; else ""."""
    match node:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(), value=ast.expr() as value)
        ) if name in _DROPPED:
            try:
                ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return ""
            return name
    return ""


def _words(node: ast.AST) -> Iterator[str]:
    """Every name that a node says, as an identifier or in a string."""
    for _, value in ast.iter_fields(node):
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str):
                yield word


class _Offsets:
    """Byte offsets of the places in a syntax tree."""

    def __init__(self, source: str) -> None:
        self._starts = [0]
        for line in source.encode().splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._starts.append(self._starts[-1])  # behind a last line without an end

    def __call__(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column


def _offsets(source: str) -> _Offsets:
    return _Offsets(source)
