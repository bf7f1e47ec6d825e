"""The trusted half of a compilation: IR in, cubin out, in a process that never saw the candidate.

What a candidate's process hands over is the text of the first IR that Triton makes of a kernel. Everything after it
happens here; what the cubin holds is read by the driver.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from kopt.disk import EXHAUSTED
from kopt.evaluate import sass

_METADATA = (
    "name", "num_warps", "num_ctas", "num_stages", "shared", "tmem_size", "global_scratch_size",
    "global_scratch_align", "profile_scratch_size", "profile_scratch_align", "tensordesc_meta",
    "launch_cooperative_grid", "launch_pdl",
)  # fmt: skip

_ROOM = 1 << 20
"""Bytes that a compilation may well need."""


def run(payload: dict[str, Any], folder: Path, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Compile payload["ir"], the text of a "ttir", "ttgir" or "glir" module, for payload["arch"].

    Writes kernel.cubin into the folder and returns {"metadata", "depth", "specialized", "log", "seconds"}, where "log"
    is what `ptxas -v` said, or {"error": {"kind", "message"}} when Triton or ptxas refuses the kernel. The kind "disk"
    is no refusal: there was no room to work in.
    """
    started = time.perf_counter()
    try:
        image, ttgir, metadata, log = lower(payload, folder)
        (folder / "kernel.cubin").write_bytes(image)
    except Exception as error:
        return {"error": _no_room(error, folder) or _refusal(error)}
    return {
        "metadata": {key: metadata[key] for key in _METADATA if key in metadata},
        "depth": sass.pipeline_depth(ttgir),
        "specialized": "ttg.warp_specialize" in ttgir,
        "log": log,
        "seconds": time.perf_counter() - started,
    }


def tools(payload: dict[str, Any], folder: Path, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Where this Triton's nvdisasm lies."""
    from triton import knobs

    return {"nvdisasm": knobs.nvidia.nvdisasm.path}


def lower(payload: Mapping[str, Any], folder: Path) -> tuple[bytes, str, dict[str, Any], str]:
    """Run the backend's stages after the one whose result the IR is; the cubin, TTGIR, metadata and ptxas's log.

    What triton.compile() does with an IR file, less its cache: the key alone hashes the whole installation.
    """
    from triton import knobs
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget, Language
    from triton.compiler.compiler import make_backend

    extension = payload["ext"]
    path = folder / f"kernel.{extension}"
    path.write_text(payload["ir"])
    target = GPUTarget("cuda", payload["arch"], 32)
    backend = make_backend(target)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = ir.parse_mlir_module(str(path), context)
    module.context = context
    options = backend.parse_options(dict(payload["options"]))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, Language.GLUON if payload["gluon"] else Language.TRITON)
    metadata: dict[str, Any] = {"target": target, **vars(options), **payload.get("metadata", {})}
    ttgir = payload["ir"] if extension == "ttgir" else ""
    knobs.nvidia.dump_ptxas_log = True
    remaining = list(stages)[list(stages).index(extension) + 1 :]
    with redirect_stdout(io.StringIO()) as log:
        for stage in remaining:
            module = stages[stage](module, metadata)
            if stage == "ttgir":
                ttgir = str(module)
    return module, ttgir, metadata, log.getvalue()


def _no_room(error: Exception, folder: Path) -> dict[str, str]:
    """The error that it is when a disk is full, or {}. Nothing is taken from a text, which may quote the kernel."""
    from triton.runtime.errors import PTXASError

    found: BaseException | None = error
    if isinstance(error, PTXASError):  # it failed, but whether for want of room only a file of our own can tell
        found = None
        try:
            (folder / "room").write_bytes(bytes(_ROOM))
        except OSError as full:
            found = full
        with suppress(OSError):
            (folder / "room").unlink()
    if isinstance(found, OSError) and found.errno in EXHAUSTED:
        return {"kind": "disk", "message": os.strerror(found.errno)}
    return {}


def _refusal(error: Exception) -> dict[str, str]:
    from triton.runtime.errors import PTXASError

    if isinstance(error, PTXASError):
        # Its first complaint; the last line merely says that there were some.
        log = str(error.error_message)
        found = re.search(r"\b(?:error|fatal)\s*:\s*(.+)", log)
        return {"kind": "ptxas", "message": " ".join((found.group(1) if found else log).split())[:400]}
    return {"kind": "passes", "message": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
