"""Makes new tasks that run as they stand, and new workspaces. What exists is never overwritten."""

from __future__ import annotations

import ast
import json
import keyword
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Self

from kopt import content, signature
from kopt.disk import EXHAUSTED
from kopt.errors import HarnessError, UsageError
from kopt.records import TensorSpec
from kopt.records.task import is_identifier
from kopt.signature import Signature

TEMPLATES = Path(__file__).with_name("templates")
ORIGINAL = "original.py"
FAMILIES = ("naive.py", "eager.py")
FOLDERS = ("tasks", "kernels", "submissions", "reports")

_TIMED = {1: 1 << 24, 2: 4096, 3: 1024}
"""Size of each dimension in the timing shape, by the number of dimensions."""
_CHECKED = 40_000
"""Elements of the largest tensor in a check_cpu shape, roughly."""

_ADD = (
    TensorSpec(name="x", role="input", dtype="bfloat16", dims=("M", "N")),
    TensorSpec(name="y", role="input", dtype="bfloat16", dims=("M", "N")),
    TensorSpec(name="out", role="output", dtype="bfloat16", dims=("M", "N")),
)
"""The example that a task begins as: out = max(x + y, 0)."""

_ADD_HOOKS = {
    "reference": '    return {"out": (inputs["x"].double() + inputs["y"].double()).clamp(min=0)}',
    "flops": '2.0 * dims["M"] * dims["N"]',
    "original": "",
}

# Modules whose imports a kernel file may keep; see evaluate/policy.py.
_KEPT_IMPORTS = ("torch", "math")


def init(folder: Path) -> tuple[Path, ...]:
    """Make `folder` a workspace; returns what was made, which is nothing when it was one."""
    made = _Made()
    with made:
        for path in (folder, *(folder / name for name in FOLDERS)):
            made.folder(path)
        marker = folder / content.MARKER
        if not marker.exists():
            made.file(marker, _template("kopt.toml"))
    return tuple(path for path in made.paths if path.is_relative_to(folder))


def new_task(name: str, root: Path, from_: str | None = None) -> Path:
    """Write tasks/<name>/ and a first family in kernels/<name>/ of a workspace; returns the task's folder.

    `from_`, as module:function, gives signature and reference; without it the task is an example to be edited.
    UsageError when the name is taken or no name, or when sizes cannot be read off the function's annotations.
    """
    if not is_identifier(name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be a task's name: it names a Python function; use letters, digits and _")
    if name in content.list_tasks(root):
        raise UsageError(f"there is a task {name} already; choose another name, or edit that one")
    source = signature.read(from_) if from_ else None
    task, kernels = root / "tasks" / name, root / "kernels" / name
    files = _files(name, source)
    if task.exists():
        raise UsageError(f"{task} is there already, without a task.toml; move it away or choose another name")
    with _Made() as made:
        made.folder(task)
        for file, text in files.items():
            path = (kernels if file in FAMILIES else task) / file
            made.folder(path.parent)
            made.file(path, text)
        if source is not None:
            made.file(task / ORIGINAL, source.path.read_bytes())
    content.read_task(task)
    return task


class _Made:
    """Files and folders that are made all of them, or none."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._at = Path()

    def folder(self, path: Path) -> None:
        """With those above it."""
        self._at = path
        for missing in reversed([p for p in (path, *path.parents) if not p.is_dir()]):
            missing.mkdir()
            self.paths.append(missing)

    def file(self, path: Path, text: str | bytes) -> None:
        self._at = path
        if not path.exists():
            self.paths.append(path)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            return
        for path in reversed(self.paths):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            # The system names no file where it was a write that failed.
            broken = HarnessError if error.errno in EXHAUSTED else UsageError
            raise broken(f"{error.filename or self._at}: cannot be made: {error.strerror}") from None


def _files(name: str, source: Signature | None) -> dict[str, str]:
    """Text by file name; those of `FAMILIES` belong into kernels/."""
    tensors = source.tensors if source else _ADD
    inputs = [t for t in tensors if t.role == "input"]
    outputs = [t for t in tensors if t.role == "output"]
    fields = {
        "name": name,
        "entry": name,
        "entry_kernel": f"{name}_kernel",
        "title": f"{source.name}() of {source.path.name}"
        if source
        else "Addition and ReLU, to be replaced by your own",
        "arguments": ", ".join(t.name for t in tensors),
        "keywords": ", ".join(f"{t.name}={t.name}" for t in inputs),
        "outputs": ", ".join(t.name for t in outputs),
        "inputs_table": "\n".join(map(_row, inputs)),
        "outputs_table": "\n".join(map(_row, outputs)),
    }
    task_fields = {**fields, **(_traced(source, outputs) if source else _ADD_HOOKS)}
    files = {
        "task.toml": _template("task.toml", {**fields, **_declared(tensors, source)}),
        "task.py": _template("task.py", task_fields).rstrip() + "\n",
        "README.md": _template("README.md", {**fields, **_described(tensors, source)}),
        "skeleton.py": _template("skeleton.py", fields),
    }
    if source is None:
        return {**files, "naive.py": _template("naive.py", fields)}
    return {**files, "eager.py": _template("eager.py", {**fields, **_pasted(source)})}


def _declared(tensors: Sequence[TensorSpec], source: Signature | None) -> dict[str, str]:
    """What task.toml says of tensors and shapes."""
    dims = list(dict.fromkeys(d for t in tensors for d in t.dims if isinstance(d, str)))
    blocks = [
        f'[[tensors]]\nname = "{t.name}"\nrole = "{t.role}"\ndtype = "{t.dtype}"\ndims = {json.dumps(list(t.dims))}'
        for t in tensors
    ]
    ragged = {dim: 17 + 14 * index for index, dim in enumerate(dims)}
    checks = {"smallest": dict.fromkeys(dims, 1), "ragged": ragged}
    for dim in dims:
        widest = max(prod(t.sizes(ragged)) for t in tensors if dim in t.dims)
        checks[f"long-{dim}"] = {**ragged, dim: ragged[dim] * max(2, _CHECKED // widest)}
    exact = '# Exact in every format, so it has to match bit for bit.\nexact_inputs = ["integers"]\n'
    return {
        "dims": "[dims]\n" + "\n".join(f"{dim} = {{ min = 1 }}" for dim in dims),
        "tensors": "\n\n".join(blocks),
        "exact": "" if source else exact,
        "library": "true" if source else "false",
        "timing": _shape("timing", "large", dict.fromkeys(dims, _TIMED.get(len(dims), 128))),
        "check": "\n\n".join(_shape("check_cpu", name, sizes) for name, sizes in checks.items()),
    }


def _shape(section: str, name: str, sizes: Mapping[str, int]) -> str:
    dims = ", ".join(f"{dim} = {size}" for dim, size in sizes.items())
    return f'[[{section}]]\nname = "{name}"\ndims = {{ {dims} }}'


def _traced(source: Signature, outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Hooks that call a copy of the original function."""
    pairs = ", ".join(f'"{t.name}": results[{index}].double()' for index, t in enumerate(outputs))
    return {
        "reference": (
            "    wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}\n"
            "    results = _original()(**wide)\n"
            "    results = results if isinstance(results, tuple) else (results,)\n"
            f"    return {{{pairs}}}"
        ),
        "flops": "0.0",
        "original": _template("original.py", {"copy": ORIGINAL, "function": source.name}),
    }


def _described(tensors: Sequence[TensorSpec], source: Signature | None) -> dict[str, str]:
    rows = (f"| {t.name} | {t.role} | {t.dtype} | [{', '.join(map(str, t.dims))}] |" for t in tensors)
    note = f"What it computes is `{source.name}()` in {ORIGINAL}." if source else "It computes `out = max(x + y, 0)`."
    return {"table": "\n".join(rows), "note": note}


def _pasted(source: Signature) -> dict[str, str]:
    """The original's module as part of a kernel file: its function is called `eager` there, its imports are torch's."""
    imports, definitions = [], []
    for node in source.tree.body:
        match node:
            case ast.Import(names=[ast.alias(name=module), *_]) | ast.ImportFrom(module=str(module)):
                if module.split(".")[0] in _KEPT_IMPORTS:
                    imports.append(ast.unparse(node))
            case ast.FunctionDef(name=name, decorator_list=[]) if name == source.name:
                definitions.append(ast.unparse(node).replace(f"def {name}(", "def eager(", 1))
            case ast.FunctionDef() | ast.Assign() | ast.AnnAssign() | ast.ClassDef():
                definitions.append(ast.unparse(node))
    return {"imports": "\n".join(imports), "definitions": "\n\n\n".join(definitions)}


def _row(tensor: TensorSpec) -> str:
    sizes = ", ".join(f'"{d}"' if isinstance(d, str) else str(d) for d in tensor.dims)
    return f'    "{tensor.name}": ("{tensor.dtype}", ({sizes}{"," if len(tensor.dims) == 1 else ""})),'


def _template(name: str, fields: Mapping[str, str] | None = None) -> str:
    text = (TEMPLATES / f"{name}.in").read_text(encoding="utf-8")
    return Template(text).substitute(fields or {})
