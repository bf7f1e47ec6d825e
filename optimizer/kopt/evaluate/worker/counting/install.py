"""Puts the counting interpreter in place of the stock one, for the life of the process."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

from kopt.evaluate.worker import mended
from kopt.evaluate.worker.counting import rewrite, shortcuts
from kopt.evaluate.worker.counting.arrays import ghost, known
from kopt.evaluate.worker.counting.builder import CountingBuilder
from kopt.evaluate.worker.counting.loops import Loops

_SORTS = ("sort", "topk", "sort_impl", "_bitonic_merge")


def install(builder: CountingBuilder, loops: Loops, executor: Callable[..., Any]) -> None:
    """Exchange builder, loops, reductions, library functions and the grid's executor.

    Call it before the candidate is imported: names imported from triton.language are then the interpreter's.
    """
    mended.install()
    interpreter.interpreter_builder = builder
    # The semantic object itself stays: kernels that were rewritten earlier hold a reference to it.
    interpreter.interpreter_semantic.builder = builder
    interpreter.GridExecutor = executor
    for name, function in (
        (rewrite.FOR, loops.each),
        (rewrite.WHILE, loops.until),
        (rewrite.IF, loops.branch),
        (rewrite.SPAN, loops.span),
    ):
        setattr(interpreter, name, function)
    interpreter.FunctionRewriter._transform_ast = _transform
    _language(builder)
    _helpers(builder)
    _reductions(builder)
    _libdevice()


def _transform(rewriter: Any, source: str) -> ast.AST:
    tree = ast.parse(source)
    offset = rewriter.def_file_lineno - 1
    ours = not rewriter.fn.__module__.startswith("triton.")
    transformer = rewrite.Reporter(offset) if ours else interpreter.ASTTransformer()
    moved: ast.AST = ast.increment_lineno(ast.fix_missing_locations(transformer.visit(tree)), offset)
    return moved


def _language(builder: CountingBuilder) -> None:
    """What the stock interpreter patches and restores around every launch, patched once."""
    scope = _scope()
    extra = (scope,) if scope is not None else ()
    for lang in (tl, tl.core):
        interpreter._patch_builtin(lang, builder, *extra)
        interpreter._patch_builtin(lang.tensor, builder, *extra)
        if lang is tl:
            interpreter._patch_builtin(lang.math, builder, *extra)
        interpreter._patch_lang_tensor(lang.tensor, *extra)
        interpreter._patch_lang_core(lang, *extra)
    interpreter._patch_builtin(tl.core.tensor_descriptor_base, builder, *extra)

    index = tl.tensor.__index__

    def steady_index(self: Any) -> int:
        if not known(self.handle):
            builder.tally.warn("a loop's length or an index depends on data: counted as zero")
        return int(index(self))

    tl.tensor.__index__ = steady_index
    shortcuts.install(builder)
    interpreter._get_np_dtype = _remembering(interpreter._get_np_dtype)


def _remembering(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The stock function builds its table of dtypes at every call."""
    found: dict[str, Any] = {}

    def lookup(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in found:
            found[name] = stock(dtype)
        return found[name]

    return lookup


def _scope() -> Any:
    kind = getattr(interpreter, "_LangPatchScope", None)
    return None if kind is None else kind()


def _helpers(builder: CountingBuilder) -> None:
    """Calls between kernels: the stock version patches the whole language again at every call."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ == "triton.language.standard" and self.fn.__name__ in _SORTS:
            builder.tally.warn("sorting: its shuffles are not modelled")
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


def _reductions(builder: CountingBuilder) -> None:
    reduce_stock, scan_stock = interpreter.ReduceOps.apply_impl, interpreter.ScanOps.apply_impl

    def reduce(self: Any, inputs: tuple[Any, ...]) -> Any:
        builder.tally.operation("reduce", sum(x.handle.data.size for x in inputs))
        if all(known(x.handle) for x in inputs):
            return reduce_stock(self, inputs)
        return [
            _tensor(ghost(_reduced(x.handle.data.shape, self.axis, self.keep_dims), x.dtype), x.dtype) for x in inputs
        ]

    def scan(self: Any, inputs: tuple[Any, ...]) -> Any:
        builder.tally.operation("reduce", sum(x.handle.data.size for x in inputs))
        if all(known(x.handle) for x in inputs):
            return scan_stock(self, inputs)
        return [_tensor(ghost(x.handle.data.shape, x.dtype), x.dtype) for x in inputs]

    interpreter.ReduceOps.apply_impl = reduce
    interpreter.ScanOps.apply_impl = scan


def _reduced(shape: tuple[int, ...], axis: int | None, keep: bool) -> tuple[int, ...]:
    if axis is None:
        return (1,) * len(shape) if keep else ()
    axis %= len(shape)
    return tuple(1 if i == axis else size for i, size in enumerate(shape) if keep or i != axis)


def _tensor(handle: Any, dtype: Any) -> Any:
    if handle.data.shape == ():
        handle = ghost((1,), dtype)
        return tl.core.tensor(handle, dtype)
    return tl.core.tensor(handle, tl.block_type(dtype, list(handle.data.shape)))


def _libdevice() -> None:
    """Library functions do nothing in interpreter mode; CUDA's own table knows their result types."""
    from triton.language.extra import libdevice
    from triton.language.extra.cuda import libdevice as cuda

    for name, function in inspect.getmembers(cuda, inspect.isfunction):
        if tl.core.is_builtin(function):
            wrapped = _with_semantic(function)
            setattr(cuda, name, wrapped)
            if hasattr(libdevice, name):
                setattr(libdevice, name, wrapped)


def _with_semantic(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("_semantic", None)
        return function(*args, **kwargs, _semantic=interpreter.interpreter_semantic)

    return call
