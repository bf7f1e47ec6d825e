"""A compilation that must succeed on any sound installation: `kopt doctor` runs it beside nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit  # type: ignore[untyped-decorator]
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside), mask=inside)


def run(payload: dict[str, Any], folder: Path, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Compile one small kernel for payload["arch"] and return the size of its cubin in bytes."""
    os.environ["TRITON_CACHE_DIR"] = str(folder)  # what an earlier compilation left proves nothing
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(add_kernel, signature, {"BLOCK": 128})
    compiled = triton.compile(source, target=GPUTarget("cuda", payload["arch"], 32))
    return {"bytes": len(compiled.asm["cubin"])}
