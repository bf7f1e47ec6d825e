"""Reads tensors off the annotations of a Python function, from its syntax and without importing it.

def fused(x: "bfloat16[M, K]", w: Float32[Tensor, "N K"]) -> "bfloat16[M, N]": ...
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from kopt import syntax
from kopt.errors import UsageError
from kopt.records import TensorSpec
from kopt.records.task import Dtype

_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "float8_e4m3fn", "f32": "float32"}
# Names of jaxtyping, which spells the dtype as a class.
_CLASSES = {"float": "float32", "int": "int32", "float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}
_WRITTEN = re.compile(r"\s*([A-Za-z0-9_]+)\s*\[([^\]]*)\]\s*")

_ASK = (
    "annotate every tensor and the result with dtype and sizes, for example "
    "def {name}(x: 'bfloat16[M, K]', w: 'bfloat16[N, K]') -> 'bfloat16[M, N]'"
)


@dataclass(frozen=True)
class Signature:
    """A function as a task sees it."""

    name: str
    path: Path
    tree: ast.Module
    tensors: tuple[TensorSpec, ...]


def read(reference: str) -> Signature:
    """`module:function`, or `file.py:function`; UsageError says what is missing and how to write it."""
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise UsageError(f"--from {reference}: write it as module:function or file.py:function")
    path = _find(where, reference)
    try:
        tree = syntax.module(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"--from {reference}: {path} cannot be read: {error}") from None
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if function is None:
        raise UsageError(f"--from {reference}: {path} has no function {name}() at its top level")
    return Signature(name, path, tree, _tensors(function, f"--from {reference}"))


def _find(where: str, reference: str) -> Path:
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise UsageError(f"--from {reference}: there is no file {where}")
        return Path(where).resolve()
    sys.path.insert(0, "")
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(f"--from {reference}: no module {where} from here: {error}") from None
    finally:
        sys.path.remove("")
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UsageError(f"--from {reference}: no Python source for module {where} from here; name its file instead")
    return Path(spec.origin)


def _tensors(function: ast.FunctionDef, where: str) -> tuple[TensorSpec, ...]:
    ask = _ASK.format(name=function.name)
    if function.args.posonlyargs:
        raise UsageError(f"{where}: arguments before / have no names to be passed by; remove the /")
    arguments = function.args.args
    required = len(arguments) - len(function.args.defaults)
    found = []
    for index, argument in enumerate(arguments):
        text = _text(argument.annotation)
        if text is None and index >= required:
            continue  # keeps its default
        if text is None:
            raise UsageError(f"{where}: the sizes of {argument.arg} are not known; {ask}")
        found.append(_spec(argument.arg, "input", text, f"{where}: {argument.arg}"))
    parts: list[ast.expr | None] = [function.returns]
    match function.returns:
        case ast.Subscript(value=head, slice=ast.Tuple(elts=several)) if _called(head).lower() == "tuple":
            parts = list(several)
    for index, part in enumerate(parts):
        text = _text(part)
        if text is None:
            raise UsageError(f"{where}: the sizes of the result are not known; {ask}")
        name = "out" if len(parts) == 1 else f"out_{index}"
        found.append(_spec(name, "output", text, f"{where}: the result"))
    if not any(spec.role == "input" for spec in found):
        raise UsageError(f"{where}: it takes no tensors; {ask}")
    if len({spec.name for spec in found}) != len(found):
        raise UsageError(f"{where}: an argument may not be called out, which is the result's name")
    return tuple(found)


def _text(annotation: ast.expr | None) -> str | None:
    """An annotation as "dtype[sizes]", or None when it is none of the kinds we read."""
    match annotation:
        case ast.Constant(value=str(text)):
            return text if _WRITTEN.fullmatch(text) else None
        # Annotated[Tensor, "bfloat16[M, K]"]
        case ast.Subscript(value=head, slice=ast.Tuple(elts=[_, ast.Constant(value=str(text))])):
            if _called(head) == "Annotated":
                return text if _WRITTEN.fullmatch(text) else None
            # jaxtyping's BFloat16[Tensor, "M K"]
            dtype = _called(head).lower()
            return f"{_CLASSES.get(dtype, dtype)}[{', '.join(text.split())}]"
    return None


def _called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _spec(name: str, role: str, text: str, where: str) -> TensorSpec:
    match = _WRITTEN.fullmatch(text)
    assert match is not None
    dtype = _SHORT.get(match[1], match[1])
    if dtype not in get_args(Dtype):
        raise UsageError(f"{where}: unknown dtype {match[1]!r}; known: {', '.join(get_args(Dtype))}")
    dims: list[str | int] = []
    for part in filter(None, (p.strip() for p in match[2].split(","))):
        if not part.isdecimal() and not part.isidentifier():
            raise UsageError(f"{where}: {part!r} is neither the name of a size nor a number")
        dims.append(int(part) if part.isdecimal() else part)
    if not dims:
        raise UsageError(f"{where}: a scalar is passed as a tensor of one element; write {dtype}[1]")
    return TensorSpec.model_validate({"name": name, "role": role, "dtype": dtype, "dims": dims})
