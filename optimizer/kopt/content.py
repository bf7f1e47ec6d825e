"""Finds the workspace, and tasks and kernel families in it or among those that ship with kopt. Reads only.

`root` is a workspace's folder throughout.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kopt.errors import UsageError
from kopt.records import Task
from kopt.workspace import MARKER as MARKER
from kopt.workspace import workspace as workspace

PACKAGE = Path(__file__).resolve().parent


def roots(root: Path) -> tuple[Path, ...]:
    """Folders that may hold tasks/ and kernels/, first the one that wins: workspace, checkout, package data.

    An installed copy of the content may be older than the checkout an editable install points into, hence the order.
    """
    # optimizer/kopt/content.py in a checkout; site-packages/kopt/content.py has no tasks/ two levels up.
    checkout = PACKAGE.parent.parent
    bundled = [checkout] if PACKAGE.parent.name == "optimizer" and (checkout / "tasks").is_dir() else []
    if (PACKAGE / "_content").is_dir():
        bundled.append(PACKAGE / "_content")
    return tuple(dict.fromkeys([root.resolve(), *bundled]))


def list_tasks(root: Path) -> tuple[str, ...]:
    """Names of all tasks in sight, sorted."""
    return tuple(sorted({path.parent.name for path in _task_files(root)}))


def load_task(name: str, root: Path) -> Task:
    """The validated task with `folder` and `sha` filled in; UsageError names the known ones, or file and key."""
    for path in _task_files(root):
        if path.parent.name == name:
            return read_task(path.parent)
    known = list_tasks(root)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
    raise UsageError(f"unknown task {name!r} ({hint}); `kopt tasks new {name}` makes one")


def read_task(folder: Path) -> Task:
    """The task of one folder. The folder's name is the task's."""
    path = folder / "task.toml"
    table = _toml(path)
    if table.pop("name", folder.name) != folder.name:
        raise UsageError(f"{path}: name: must be the folder's name, {folder.name!r}; leave the key out")
    if reserved := {"folder", "sha"} & set(table):
        raise UsageError(f"{path}: {', '.join(sorted(reserved))}: filled in by kopt; leave the key out")
    try:
        return Task.model_validate({**table, "name": folder.name, "folder": str(folder), "sha": _sha(folder)})
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {line}" for line in explain(error))) from None


def families(task: Task | str, root: Path | None = None) -> tuple[Path, ...]:
    """Files kernels/<task>/<family>.py, sorted by name; one in the workspace hides one of the same name that ships.

    `root` is the workspace; None finds it from the current folder.
    """
    name = task if isinstance(task, str) else task.name
    found: dict[str, Path] = {}
    for base in roots(root or workspace()):
        for path in sorted((base / "kernels" / name).glob("*.py")):
            if not path.name.startswith("_"):
                found.setdefault(path.stem, path)
    return tuple(found[stem] for stem in sorted(found))


def skeleton(task: Task) -> str:
    """Source of the non-functional starting point that a model is given."""
    return _text(task, "skeleton.py")


def description(task: Task) -> str:
    """The task's README, as a model or a person reads it."""
    return _text(task, "README.md")


def explain(error: ValidationError) -> Iterator[str]:
    """One line per mistake: the key as it is written in TOML, then what is wrong with it."""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "unknown key"
        elif item["type"] == "missing":
            problem = "missing"
        elif isinstance(item["input"], str | int | float | bool):
            problem += f", not {item['input']!r}"
        yield f"{key}: {problem}" if key else problem


def _task_files(root: Path) -> Iterator[Path]:
    for base in roots(root):
        yield from sorted((base / "tasks").glob("*/task.toml"))


def _toml(path: Path) -> dict[str, Any]:
    try:
        table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not valid TOML: not UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return dict(table)


def _sha(folder: Path) -> str:
    """SHA-256 over what a task is made of: its declaration and all its Python. The README may change freely."""
    digest = hashlib.sha256()
    for path in (folder / "task.toml", *sorted(folder.glob("*.py"))):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _text(task: Task, name: str) -> str:
    path = Path(task.folder) / name
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task {task.name}: {path} cannot be read ({error}); a task needs a {name}") from None
