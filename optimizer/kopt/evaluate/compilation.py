"""Compiles IR that untrusted processes hand over, each once, in clean children, as many at a time as there are cores.

Results are kept by content: IR, options, architecture and toolchain. So two trials with the same kernel, or a file that
is checked again unchanged, cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kopt.disk import writing
from kopt.errors import HarnessError
from kopt.evaluate import cubin, sass
from kopt.evaluate.disassembly import Disassembler, Disassemblers
from kopt.evaluate.hearsay import Nonsense, count, items, scalar, table, understood
from kopt.evaluate.occupancy import occupancy
from kopt.evaluate.workers import Workers
from kopt.machine.products import Product
from kopt.records import KernelFacts

_JOB = "kopt.evaluate.worker.compile"
DEADLINE = 120.0
"""Seconds a compilation may take; what takes longer is no kernel that a loop can work with."""
_LARGEST_IR = 16 << 20
_BOXES = 256
"""TMA descriptors of one kernel."""
_SHOWN = 200
"""Characters of a kernel's name, or of an option that is refused."""
_OPTIONS = frozenset((
    "num_warps", "num_ctas", "num_stages", "warp_size", "maxnreg", "enable_fp_fusion", "enable_reflect_ftz",
    "launch_cooperative_grid", "launch_pdl", "debug", "sanitize_overflow", "max_num_imprecise_acc_default", "sched4reg",
    "clc",
))  # fmt: skip
"""Options of Triton's CUDA backend that change only the code. The others name files, or instrument a kernel."""
_HARMLESS = frozenset((
    "arch", "backend_name", "ptx_version", "extern_libs", "ir_override", "ptx_options", "instrumentation_mode",
    "fpsan_homomorphic_casts", "min_shared_mem", "supported_fp8_dtypes", "deprecated_fp8_dot_operand_dtypes",
    "default_dot_input_precision", "allowed_dot_input_precisions",
))  # fmt: skip
"""Known options that stay behind, as long as they are empty or what Triton sets by itself."""


@dataclass(frozen=True)
class Compiled:
    """What became of one kernel. Either `error` is empty or nothing else is there."""

    id: str
    """Of the compilation: SHA-256 over everything that goes into it."""
    metadata: Mapping[str, Any]
    facts: Mapping[str, Any]
    """Fields of KernelFacts that do not depend on the product."""
    cubin: str = ""
    """SHA-256 of the cubin."""
    error: str = ""
    kind: str = ""
    """Of the error: "ptxas", "passes" or "options"."""

    @property
    def line(self) -> str:
        """The source line that the compiler blames, or ""."""
        found = re.search(r'kernel\.py"?:(\d+)', self.error)
        return found.group(1) if found else ""

    def on(self, product: Product, arch: int) -> KernelFacts:
        """The facts as they stand on one product."""
        warps, shared = int(self.metadata["num_warps"]), int(self.metadata.get("shared") or 0)
        blocks, limit = occupancy(product, registers=int(self.facts["registers"]), warps=warps, shared=shared)
        return KernelFacts(
            id=self.cubin,
            name=str(self.metadata["name"])[:_SHOWN],
            arch=arch,
            warps=warps,
            stages=int(self.metadata.get("num_stages") or 0),
            ctas=int(self.metadata.get("num_ctas") or 1),
            shared=shared,
            shared_limit=product.shared_per_block,
            occupancy=blocks,
            occupancy_limit=limit,
            **self.facts,
        )


class Compiler:
    """Thread-safe. `store` is a folder that untrusted processes cannot write to."""

    def __init__(self, workers: Workers, store: Path) -> None:
        self._workers = workers
        self._store = store / "compiled"
        self._pool = ThreadPoolExecutor(workers.cores, thread_name_prefix="compile")
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Compiled]] = {}
        self._tool, self._tool_lock = "", threading.Lock()
        self._disassemblers = Disassemblers(self._nvdisasm, store / "nvdisasm")

    def prepare(self, arch: int) -> None:
        """Compilations for this architecture are likely to be asked for soon."""
        self._pool.submit(self._disassemblers.prepare, arch)

    @cached_property
    def _toolchain(self) -> str:
        return self._workers.toolchain().model_dump_json()

    def submit(self, question: Mapping[str, Any], arch: int) -> str:
        """Begin to compile what an untrusted process asks for; the id to ask for the result with. Raises nothing."""
        try:
            with understood():
                payload = _payload(question, arch)
                wrong = _unsupported(question["options"])
        except Nonsense:
            return self.refuse("the worker asked for a compilation that makes no sense")
        if wrong:
            return self.refuse(f"compiler option {wrong} is not supported")
        id = hashlib.sha256(f"{self._toolchain}\n{json.dumps(payload, sort_keys=True)}".encode()).hexdigest()
        with self._lock:
            if id not in self._futures:
                self._futures[id] = self._pool.submit(self._compile, id, payload)
        return id

    def result(self, id: str) -> Compiled:
        """Wait for a compilation. HarnessError when the workers broke."""
        with self._lock:
            future = self._futures.get(id)
        return future.result() if future else Compiled(id, {}, {}, error="no such compilation", kind="options")

    def cubin(self, sha: str) -> Path:
        """Where the cubin with this SHA-256 lies."""
        return self._store / f"{sha}.cubin"

    def hot_loop(self, sha: str, arch: int) -> tuple[sass.Instruction, ...]:
        """Instructions of the hot loop of the cubin with this SHA-256; () when it has no loop."""
        disassembler = self._disassemblers.take(arch)
        try:
            return sass.hot_loop(disassembler.read(cubin.read(self.cubin(sha).read_bytes()).words))
        finally:
            disassembler.close()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._disassemblers.close()

    def refuse(self, why: str) -> str:
        """The id of a compilation that fails with these words."""
        id = hashlib.sha256(why.encode()).hexdigest()
        with self._lock:
            future: Future[Compiled] = self._futures.setdefault(id, Future())
            if not future.done():
                future.set_result(Compiled(id, {}, {}, error=why, kind="options"))
        return id

    def _compile(self, id: str, payload: Mapping[str, Any]) -> Compiled:
        if (kept := self._load(id)) is not None:
            return kept
        with writing(self._store):
            self._store.mkdir(parents=True, exist_ok=True)
        disassembler = self._disassemblers.take(payload["arch"])
        try:
            with writing(self._store), tempfile.TemporaryDirectory(prefix="compile-", dir=self._store) as name:
                compiled = self._compile_in(Path(name), id, payload, disassembler)
        finally:
            disassembler.close()
        return compiled

    def _compile_in(self, folder: Path, id: str, payload: Mapping[str, Any], nvdisasm: Disassembler) -> Compiled:
        reply = self._workers.run("compile", f"{_JOB}:run", payload, folder=folder, deadline=DEADLINE, trusted=True)
        value: dict[str, Any] = reply.value if reply.ok else {"error": {"kind": "passes", "message": _died(reply)}}
        if error := value.get("error"):
            if error["kind"] == "disk":
                raise HarnessError(f"{self._store}: a kernel cannot be compiled there: {error['message']}")
            said = _diagnostics(reply.output)
            message = f"{said} ({error['message']})" if said else error["message"]
            return Compiled(id, {}, {}, error=message, kind=error["kind"])
        image = (folder / "kernel.cubin").read_bytes()
        try:
            code = cubin.read(image)
        except ValueError as error:  # inline assembly can write sections of its own
            return Compiled(id, {}, {}, error=f"its machine code cannot be read: {error}", kind="ptxas")
        facts = sass.facts(nvdisasm.read(code.words), code.lines, value["log"])
        facts["depth"] = value["depth"]
        facts["specialized"] = value["specialized"] or "USETMAXREG" in facts["opcodes"]
        compiled = Compiled(id, value["metadata"], facts, cubin=hashlib.sha256(image).hexdigest())
        (folder / "kernel.cubin").replace(self.cubin(compiled.cubin))
        self._save(compiled, folder)
        return compiled

    def _nvdisasm(self) -> str:
        with self._tool_lock:
            if not self._tool:
                with writing(), tempfile.TemporaryDirectory(prefix="kopt-tools-") as name:
                    folder = Path(name)
                    reply = self._workers.run(
                        "compile", f"{_JOB}:tools", {}, folder=folder, deadline=DEADLINE, trusted=True
                    )
                if not reply.ok:
                    raise HarnessError(f"Triton's nvdisasm cannot be found: {reply.error}")
                self._tool = str(reply.value["nvdisasm"])
            return self._tool

    def _load(self, id: str) -> Compiled | None:
        try:
            kept = json.loads((self._store / f"{id}.json").read_text())
            compiled = Compiled(id, kept["metadata"], kept["facts"], kept["cubin"])
            return compiled if self.cubin(compiled.cubin).is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or torn: compiled again

    def _save(self, compiled: Compiled, folder: Path) -> None:
        with suppress(OSError):  # a full disk costs a repetition, not the result
            draft = folder / "result.json"
            result = {"metadata": compiled.metadata, "facts": compiled.facts, "cubin": compiled.cubin}
            draft.write_text(json.dumps(result))
            draft.replace(self._store / f"{compiled.id}.json")


def _payload(question: Mapping[str, Any], arch: int) -> dict[str, Any]:
    """What a clean process is told; every field is checked or made anew."""
    ir, extension, options = question["compile"], question["ext"], table(question["options"])
    if not isinstance(ir, str) or len(ir) > _LARGEST_IR or extension not in ("ttir", "ttgir", "glir"):
        raise Nonsense("no IR of a kind that is known")
    scalars = {key: scalar(options[key]) for key in sorted(_OPTIONS & set(options))}
    # Made by a stage that ran with the candidate, as happens with Gluon; launches are checked against it.
    boxes = question["metadata"].get("tensordesc_meta")
    if boxes is not None:
        boxes = [box and _box(box) for box in items(boxes, _BOXES)]
    return {
        "ir": ir,
        "ext": extension,
        "gluon": bool(question.get("gluon")),
        "options": scalars,
        "metadata": {} if boxes is None else {"tensordesc_meta": boxes},
        "arch": arch,
    }


def _box(box: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: count(box[key]) for key in ("swizzle", "elem_size", "elem_type", "fp4_padded") if key in box}
    return {"block_size": [count(extent) for extent in items(box["block_size"], 8)], **numbers}


def _unsupported(options: Mapping[str, Any]) -> str:
    """The first option that would make a trusted process read files or run other code, or ""."""
    for key, value in options.items():
        if key in ("ir_override", "ptx_options", "instrumentation_mode", "min_shared_mem") and value:
            return f"{key}={value!r}"[:_SHOWN]
        if key == "extern_libs" and "libdevice" not in repr(value or "libdevice").partition(",")[0]:
            return f"{key}={value!r}"[:_SHOWN]
        if key not in _OPTIONS | _HARMLESS:
            return repr(key)[:_SHOWN]
    return ""


def _died(reply: Any) -> str:
    return f"the compiler {'took too long' if reply.outcome == 'timeout' else 'crashed'}: {reply.error}"


_DIAGNOSTIC = re.compile(r"^(?:loc\()?\"?([^\s\"]*kernel\.\w+)\"?:(\d+):\d+\)?: error: (.+)$", re.MULTILINE)


def _diagnostics(output: str) -> str:
    """The first error that MLIR printed, with its place, in one line."""
    found = _DIAGNOSTIC.search(output)
    return f"kernel.py:{found.group(2)}: {found.group(3).strip()[:200]}" if found else ""
