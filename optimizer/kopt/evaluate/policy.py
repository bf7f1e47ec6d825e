"""The first stage: does a file keep the contract, and does it ask for nothing forbidden? Decided from syntax alone.

This stage is a courtesy, not a wall: it answers in a millisecond and names the line. What a determined candidate can
still do is held by the walls around the worker and by the judge (docs/threat-model.md).
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator

from kopt.evaluate.stage import Case, Earlier
from kopt.records import Finding, Outcome, StageResult, Status
from kopt.source import MAX_BYTES, KernelSource, SourceError, imported_modules, parse

ALLOWED_MODULES = frozenset(
    "torch triton math cmath functools itertools operator typing typing_extensions collections dataclasses enum "
    "contextlib abc copy numbers warnings string __future__ types".split()
)
"""Top-level modules a kernel file may import."""

FORBIDDEN_SUBMODULES = {
    "torch.utils.cpp_extension": "compiles C++ outside kopt's sight",
    "torch.multiprocessing": "starts processes",
    "torch.distributed": "opens sockets",
    "torch.hub": "downloads code",
    "torch.package": "loads code",
    "torch.jit": "hides the code that runs",
    "torch._inductor": "hides the code that runs",
    "torch._C": "reaches under torch",
    "torch.testing": "is the checker's, not the kernel's",
    "torch.profiler": "can see the evaluator at work",
    "torch.utils._python_dispatch": "reaches what watches torch's operations",
    "torch.overrides": "reaches what watches torch's operations",
    "torch.library": "changes torch's operations",
    "torch.load": "loads code",
    "torch.from_file": "reads files",
    "triton.testing": "holds timers; timing is the judge's",
    "triton.profiler": "can see the evaluator at work",
    "triton._C": "reaches under triton",
    "triton.backends": "reaches under triton",
    "triton.knobs": "tells the evaluator's stages apart",
    "triton.runtime.build": "compiles C",
}

NAMED_REJECTIONS = {
    "cupy": "CUDA C++ through CuPy is not supported yet; write Triton or Gluon",
    "cuda": "CUDA C++ is not supported yet; write Triton or Gluon",
    "pycuda": "CUDA C++ is not supported yet; write Triton or Gluon",
    "ctypes": "ctypes reaches under the interpreter",
    "numpy": "a kernel file depends on torch and triton only",
}

FORBIDDEN_CALLS = frozenset(
    "exec eval compile open input breakpoint __import__ globals locals vars setattr delattr memoryview exit "
    "quit".split()
)
"""Builtins that a kernel has no use for, called or passed on."""

_COMMON_NAMES = frozenset(("input", "vars"))
"""Of these, names that variables have, too: not called, they are taken for one where the file has such a variable."""

BY_NAME = frozenset(("attrgetter", "methodcaller"))
"""What reaches attributes by names given as strings, as `getattr` does: they have to be written out."""

FORBIDDEN_ATTRIBUTES = frozenset(
    "set_active load_library load_inline elapsed_time do_bench do_bench_cudagraph _set_deterministic_algorithms "
    "set_default_device set_default_dtype use_deterministic_algorithms f_back f_builtins f_code f_globals f_locals "
    "tb_frame tb_next gi_frame cr_frame ag_frame _getframe _current_frames currentframe CodeType knobs "
    "_disable_current_modes _pop_mode compile_module_from_src get_field get_type_hints ForwardRef".split()
)
"""Attributes whose call or use tampers with the driver, the clock, global state or the caller's frames."""

OUTSIDE = frozenset(
    "sys os ctypes inspect builtins bltns importlib threading multiprocessing subprocess socket gc traceback "
    "pickle".split()
)
"""Modules that allowed ones have imported for themselves, underscores aside: torch.sys is sys."""

ALLOWED_DUNDERS = frozenset("__name__ __doc__ __version__ __init__ __post_init__ __call__ __len__ __getitem__".split())

DEFINED_DUNDERS = ALLOWED_DUNDERS | frozenset(
    "__all__ __author__ __license__ __slots__ __new__ __enter__ __exit__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ "
    "__hash__ __bool__ __int__ __float__ __index__ __repr__ __str__ __iter__ __next__ __reversed__ __contains__ "
    "__setitem__ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __floordiv__ __mod__ __pow__ __neg__ "
    "__matmul__ __and__ __or__ __xor__ __invert__ __lshift__ __rshift__".split()
)
"""Those which a file may define, or use as a name. Of others some are read by the interpreter: __match_args__."""


class Policy:
    """Stage "policy"; needs nothing but the source."""

    name = "policy"

    def run(self, case: Case, earlier: Earlier) -> StageResult:
        started = time.perf_counter()
        findings = tuple(check(case.source, case.task.entry, len(case.task.tensors), dict(case.parameters)))
        failed = any(f.status for f in findings)
        return StageResult(
            stage=self.name,
            outcome=Outcome.FAILED if failed else Outcome.PASSED,
            findings=findings,
            seconds=time.perf_counter() - started,
        )


def check(text: str, entry: str, tensors: int, parameters: dict[str, object] | None = None) -> Iterator[Finding]:
    """Findings about a source: contract first, then what it asks for."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        yield _finding("policy.size", f"the file is larger than {MAX_BYTES >> 20} MiB", None)
        return
    try:
        source = parse(text, entry)
    except SourceError as error:
        status = Status.COMPILE_ERROR if error.rule == "policy.syntax" else Status.REJECTED
        yield _finding(error.rule, str(error), error.line, status)
        return
    yield from _contract(source, entry, tensors, parameters or {})
    yield from _imports(source)
    yield from _uses(source)


def _finding(rule: str, message: str, line: int | None, status: Status = Status.REJECTED) -> Finding:
    return Finding(rule=rule, message=message, status=status, place=f"line {line}" if line else "")


def _contract(source: KernelSource, entry: str, tensors: int, parameters: dict[str, object]) -> Iterator[Finding]:
    arguments, line = source.entry.args, source.entry.lineno
    if arguments.vararg or arguments.kwarg:
        yield _finding("policy.signature", f"{entry}() must not take *args or **kwargs", line)
    elif source.positional != tensors:
        yield _finding(
            "policy.signature", f"{entry}() takes {source.positional} tensors, the task passes {tensors}", line
        )
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None:
            yield _finding("policy.signature", f"{entry}(): parameter {argument.arg} needs a default", line)
    for name in parameters:
        if name not in source.keyword_only:
            yield _finding("policy.parameters", f"{entry}() has no keyword-only parameter {name!r}", line)
    for name, choices in source.tune.items():
        value = source.defaults.get(name)
        if value is not None and value not in choices:
            yield Finding(
                rule="policy.tune",
                message=f"the default {name}={value} is not among its TUNE choices",
                place=f"line {line}",
            )


def _imports(source: KernelSource) -> Iterator[Finding]:
    for module, line in imported_modules(source.tree):
        top = module.split(".")[0]
        if module.startswith("."):
            yield _finding("policy.import", "relative imports: a kernel is one self-contained file", line)
        elif top in NAMED_REJECTIONS:
            yield _finding("policy.import", f"import {module}: {NAMED_REJECTIONS[top]}", line)
        elif top not in ALLOWED_MODULES:
            yield _finding("policy.import", f"import {module}: a kernel file may import torch and triton only", line)
        elif module.endswith(".*"):
            yield _finding("policy.import", f"from {module[:-2]} import *: write out the names", line)
        elif reason := _forbidden_submodule(module):
            yield _finding("policy.import", f"import {module}: {reason}", line)
        elif reason := _attribute(module.rpartition(".")[2]) if "." in module else "":
            yield _finding("policy.import", f"import {module}: .{reason}", line)


def _forbidden_submodule(dotted: str) -> str:
    for module, reason in FORBIDDEN_SUBMODULES.items():
        if dotted == module or dotted.startswith(module + "."):
            return reason
    return ""


def _uses(source: KernelSource) -> Iterator[Finding]:
    aliases = _module_aliases(source.tree)
    taken = _COMMON_NAMES & _variables(source.tree)
    called = {id(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(source.tree):
        match node:
            case ast.Name(id="__builtins__" | "__loader__" | "__spec__" as name):
                yield _finding("policy.dunder", f"{name} reaches under the interpreter", node.lineno)
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name) if (
                _dunder(name) and name not in DEFINED_DUNDERS and name not in FORBIDDEN_CALLS
            ):
                yield _finding("policy.dunder", f"{name} is the interpreter's, not a kernel's", node.lineno)
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield _finding("policy.call", f"{name}() is not for kernels", node.lineno)
            case ast.Name(id=name, ctx=ast.Load()) if name in FORBIDDEN_CALLS and name not in taken:
                yield _finding("policy.call", f"{name} is not for kernels", node.lineno)
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) if id(node) not in called and (
                name := _by_strings(node, aliases)
            ):
                yield _finding("policy.call", f"{name} may only be called: attributes are written out", node.lineno)
            case ast.Attribute(attr=name) if reason := _attribute(name):
                yield _finding("policy.attribute", f".{reason}", node.lineno)
            case ast.MatchClass(kwd_attrs=names) if reason := next(filter(None, map(_attribute, names)), ""):
                yield _finding("policy.attribute", f".{reason}", node.cls.lineno)
            case ast.Attribute(attr=name) if _dunder(name) and name not in ALLOWED_DUNDERS:
                yield _finding("policy.dunder", f".{name} reaches under the interpreter", node.lineno)
            case ast.Attribute() if reason := _forbidden_submodule(_dotted(node, aliases)):
                yield _finding("policy.import", f"{_dotted(node, aliases)}: {reason}", node.lineno)
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Starred() as given, *_]):
                yield from _by_name("getattr", [given])
            case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]):
                yield from _by_name("getattr", [name])
            case ast.Call(func=function, args=names) if name := _by_strings(function, aliases):
                yield from _by_name(name, names)
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()) if (
                dotted := _dotted(node, aliases)
            ):
                told = f"assignment to {dotted} changes a module kopt relies on"
                yield _finding("policy.monkeypatch", told, node.lineno)


def _attribute(name: str) -> str:
    """What is wrong with an attribute of anything, or ""."""
    if name in FORBIDDEN_ATTRIBUTES:
        return f"{name} tampers with the evaluator's world"
    if name.strip("_") in OUTSIDE:
        return f"{name} is a module that a kernel file may not import"
    return ""


def _by_strings(node: ast.AST, aliases: dict[str, str]) -> str:
    """The name of what reaches attributes by strings, if that is what an expression names; or ""."""
    if isinstance(node, ast.Name) and node.id == "getattr":
        return node.id
    dotted = _dotted(node, aliases)
    return dotted if dotted.rpartition(".")[2] in BY_NAME else ""


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _by_name(function: str, names: list[ast.expr]) -> Iterator[Finding]:
    """Attributes whose names are strings follow the rules of those that are not."""
    for given in names:
        match given:
            case ast.Constant(value=str(dotted)):
                for name in dotted.split("."):
                    if _dunder(name):
                        told = f"{function}(…, {dotted!r}) reaches under the interpreter"
                        yield _finding("policy.dunder", told, given.lineno)
                    elif reason := _attribute(name):
                        yield _finding("policy.attribute", f"{function}(…, {dotted!r}): .{reason}", given.lineno)
            case _:
                told = f"{function}(): the name of the attribute has to be written out"
                yield _finding("policy.call", told, given.lineno)


def _variables(tree: ast.AST) -> set[str]:
    """Names that the file itself gives something, wherever."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.FunctionDef(name=name):
                found.add(name)
    return found


def _module_aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted origin, for everything imported, and for names that such a thing is given."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.NamedExpr) and (dotted := _dotted(node.value, aliases)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    aliases.setdefault(target.id, dotted)
    return aliases


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """The dotted path of an attribute chain that starts at an imported name, or ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in aliases:
        return ".".join([aliases[node.id], *reversed(parts)])
    return ""
