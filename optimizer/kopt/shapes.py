"""A user's own sizes: a TOML file of [[timing]] tables in place of the task's."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from kopt.content import explain
from kopt.errors import UsageError
from kopt.records import Shape, Task


def read_shapes(path: Path, task: Task) -> tuple[Shape, ...]:
    """Timing shapes from a file; UsageError names the file, the table and the key.

    A table gives its sizes as `dims = { M = 1, ... }`, as in task.toml, or as keys of its own; `name` is optional.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("timing")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: needs at least one [[timing]] table with {', '.join(task.dims)}")
    shapes: list[Shape] = []
    for number, table in enumerate(tables, 1):
        dims = table.get("dims") or {key: value for key, value in table.items() if key != "name"}
        name = table.get("name", "x".join(str(value) for value in dims.values()))
        try:
            shape = Shape(name=name, dims=dims)
        except ValidationError as error:
            raise UsageError(f"{path}: timing {number}: {next(explain(error))}") from error
        try:
            task.validate_shape(shape, "timing")
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
        if any(other.name == shape.name for other in shapes):
            raise UsageError(f"{path}: two [[timing]] tables are called {shape.name}")
        shapes.append(shape)
    return tuple(shapes)
