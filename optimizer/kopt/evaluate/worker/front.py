"""Triton's compiler up to a kernel's first IR, and what a launch gets in place of a loaded kernel.

The IR goes to the driver process, which has a clean child compile it (`worker/compile.py`). Meanwhile this process runs
on, as if every kernel compiled and fitted; the trace is only believed if that turns out to be so, and else taken again
with `wait`, where each compilation is waited for and fails where it would on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import index
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
import triton.compiler
import triton.compiler.compiler as triton_compiler
from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget, Language
from triton.compiler.compiler import CompiledKernel, make_backend
from triton.runtime import _allocation
from triton.runtime.errors import OutOfResources, PTXASError
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from kopt.evaluate.hearsay import LARGEST
from kopt.evaluate.occupancy import fits
from kopt.evaluate.sass import SOURCE
from kopt.evaluate.worker import one_configuration, recording
from kopt.evaluate.worker.stub_driver import StubDriver
from kopt.evaluate.worker.tape import Tape
from kopt.machine.products import Product

Ask = Callable[[dict[str, Any]], dict[str, Any]]


class Front:
    """Compiles as triton.compile() does, by asking the driver."""

    def __init__(self, ask: Ask, file: Path, target: Product, tape: Tape, wait: bool) -> None:
        self.tape, self.target, self.wait = tape, target, wait
        self.ids: dict[str, None] = {}
        """Every compilation asked for."""
        self.unallocated: set[str] = set()
        """Those launched while no allocator for scratch memory was set."""
        self._ask = ask
        self._file = str(file)
        self._results: dict[str, dict[str, Any]] = {}

    def install(self) -> None:
        triton.runtime.driver.set_active(StubDriver(self.target))
        for module in (triton, triton.compiler, triton_compiler):
            module.compile = self.compile
        self._tell(JITFunction, "run")
        self._tell(TensorDescriptor, "__post_init__")
        one_configuration.install(self.tape)
        knobs.runtime.add_stages_inspection_hook = None

    def compile(self, src: Any, target: Any = None, options: Any = None, **_: Any) -> TracedKernel:
        with self._told():
            return self._compile(src, dict(options or {}))

    def _tell(self, owner: Any, name: str) -> None:
        """Have exceptions that leave a method noted on the tape."""
        original = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            with self._told():
                return original(*args, **kwargs)

        setattr(owner, name, method)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.tape.failed(error)
            raise

    def _compile(self, src: Any, options: dict[str, Any]) -> TracedKernel:
        target = GPUTarget("cuda", self.target.arch, 32)
        backend = make_backend(target)
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        if isinstance(src, str | Path):
            if Path(src).suffix not in (".ttir", ".ttgir"):
                raise NotImplementedError(f"kopt compiles kernels from source, not from {Path(src).name}")
            src = triton_compiler.IRSource(str(src), context, backend)
        parsed = backend.parse_options({**options, **src.parse_options()})
        try:
            module = src.make_ir(
                target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
            )
        except Exception as error:
            triton_compiler.filter_traceback(error)
            raise
        metadata: dict[str, Any] = {"target": target, **vars(parsed)}
        if not isinstance(src, triton_compiler.IRSource):
            stages: dict[str, Any] = {}
            backend.add_stages(stages, parsed, src.language)
            module = stages[src.ext](module, metadata)
        question = {
            "compile": str(module).replace(self._file, SOURCE),
            "ext": src.ext,
            "gluon": src.language == Language.GLUON,
            "options": {key: value for key, value in options.items() if value is not None},
            # Made by the stage that ran here; the rest of what it says is Triton's own default.
            "metadata": {"tensordesc_meta": metadata["tensordesc_meta"]} if "tensordesc_meta" in metadata else {},
        }
        id = str(self._ask(question)["id"])
        self.ids[id] = None
        if self.wait:
            raise_refusal(self.result(id))
        return TracedKernel(self, id, src, parsed, str(module))

    def known(self, id: str) -> dict[str, Any] | None:
        """The result of a compilation if it has been waited for."""
        return self._results.get(id)

    def result(self, id: str) -> dict[str, Any]:
        """The result of a compilation, waited for."""
        if id not in self._results:
            self._results.update(self._ask({"results": [id]})["results"])
        return self._results[id]

    def settle(self) -> None:
        """Wait for every compilation asked for."""
        if missing := [id for id in self.ids if id not in self._results]:
            self._results.update(self._ask({"results": missing})["results"])

    def refused(self) -> bool:
        """Whether anything that was taken for granted turned out false."""
        return any(
            "error" in result
            or self.misfit(result["metadata"])
            or (id in self.unallocated and result["metadata"].get("global_scratch_size"))
            for id, result in self._results.items()
        )

    def misfit(self, metadata: Mapping[str, Any]) -> OutOfResources | None:
        """What a kernel needs more of than a block can have."""
        for what, need, limit in fits(self.target, metadata):
            return OutOfResources(need, limit, what)
        return None


class BackendError(RuntimeError):
    """The compiler refused a kernel after its first IR. Triton raises RuntimeError then."""


def raise_refusal(result: Mapping[str, Any]) -> None:
    """Raise what Triton would have raised, if the compilation failed."""
    if error := result.get("error"):
        raise PTXASError(error["message"]) if error["kind"] == "ptxas" else BackendError(error["message"])


class TracedKernel(CompiledKernel):  # type: ignore[misc]
    """What a launch gets instead of a loaded kernel. What only the compilation can tell is waited for when asked."""

    def __init__(self, front: Front, id: str, src: Any, options: Any, text: str) -> None:
        self._front, self.id, self.src, self._options = front, id, src, options
        self.hash = id
        self.function = id
        self.module = id
        self.name = str(src.name).removeprefix("@")
        self.packed_metadata = (options.num_warps, options.num_ctas, 0)
        self.n_max_threads = 1024
        self.kernel = b""
        self._text = text

    def __del__(self) -> None: ...

    def _init_handles(self) -> None:
        if error := self._front.misfit(vars(self.metadata)):
            raise error

    @property
    def metadata(self) -> SimpleNamespace:
        metadata = self._front.result(self.id).get("metadata", {})
        return SimpleNamespace(**{**vars(self._options), **metadata, "hash": self.hash})

    @property
    def asm(self) -> dict[str, Any]:
        return {self.src.ext: self._text, "cubin": b""}

    @property
    def n_regs(self) -> int:
        return int(self._front.result(self.id).get("facts", {}).get("registers", 0))

    @property
    def n_spills(self) -> int:
        facts = self._front.result(self.id).get("facts", {})
        return int(facts.get("spill_stores", 0) + facts.get("spill_loads", 0)) // 4

    @property
    def run(self) -> Callable[..., None]:
        return self._launch

    def launch_metadata(self, grid: Any, stream: Any, *args: Any) -> None:
        return None

    def _launch(
        self, x: int, y: int, z: int, stream: Any, function: Any, packed: Any, metadata: Any, *rest: Any
    ) -> None:
        args = rest[2:]  # after the hooks
        front = self._front
        allocator = _allocation._allocator.get()
        has_allocator = not isinstance(allocator, _allocation.NullAllocator)
        if not has_allocator:
            front.unallocated.add(self.id)
        event = {
            "launch": self.id,
            "name": self.name,
            "grid": [min(index(n), LARGEST) for n in (x, y, z)],  # TypeError for floats, as in Triton's launcher
            "allocator": has_allocator,
            "descriptors": [_descriptor(arg) for arg in args if type(arg).__name__.endswith("TensorDescriptor")],
            # Written down when the call is over: it is being timed.
            "arguments": partial(recording.arguments, self.src.signature, args),
        }
        result = front.result(self.id) if front.wait else front.known(self.id)
        if result and "metadata" in result:
            self._init_handles()
            if size := result["metadata"].get("global_scratch_size"):
                # As Triton's launcher does; a missing allocator raises, as there.
                allocator(int(x) * int(y) * int(z) * size, result["metadata"]["global_scratch_align"], stream)
        front.tape.add(event)


def _descriptor(descriptor: Any) -> dict[str, Any]:
    return {
        "address": descriptor.base.data_ptr(),
        "itemsize": descriptor.base.element_size(),
        "shape": [int(n) for n in descriptor.shape],
        "strides": [int(n) for n in descriptor.strides],
        "block": [int(n) for n in descriptor.block_shape],
    }
