"""The trace stage on candidates as they are written, and its facts against what Triton's own JIT compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.compilation import Compiler
from kopt.evaluate.stage import Case
from kopt.evaluate.trace import Trace
from kopt.evaluate.workers import Workers
from kopt.machine.products import product
from kopt.records import Outcome, Shape, StageResult, Status, Submission, Task, digest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

ROOT = Path(__file__).parents[2]
CANDIDATES = Path(__file__).parent / "candidates"
FAMILIES = ROOT / "kernels" / "fp8_gemm"

Tracer = Callable[..., StageResult]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture(scope="module")
def task() -> Task:
    """The shipped task at two of its timing shapes: what holds for two holds for four."""
    task = content.load_task("fp8_gemm", ROOT)
    return task.model_copy(update={"timing": task.timing[:2]})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def trace(workers: Workers, task: Task, store: Path) -> Iterator[Tracer]:
    stage = Trace(workers, store)

    def run(source: str | Path, target: str = "h200", **parameters: int) -> StageResult:
        return stage.run(case(task, source, target, **parameters), {})

    yield run
    stage.close()


def case(task: Task, source: str | Path, target: str = "h200", **parameters: int) -> Case:
    text = source if isinstance(source, str) else source.read_text()
    return Case(task, Submission(n=1, sha=digest(text), origin="user"), text, product(target), parameters)


def rejections(result: StageResult) -> list[tuple[str, Status, str]]:
    return [(f.rule, f.status, f.place) for f in result.findings if f.status]


@pytest.mark.parametrize("path", sorted((CANDIDATES / "honest").glob("*.py")), ids=lambda path: path.stem)
def test_ordinary_candidates_trace_without_change(trace: Tracer, task: Task, path: Path) -> None:
    result = trace(path)
    assert (result.outcome, rejections(result)) == (Outcome.PASSED, [])
    kernels, calls = result.artifacts["kernels"], result.artifacts["calls"]
    for shape in task.timing:
        assert len(calls[shape.name]) == 1  # the steady state: no warm-up, no capture, no search
        opcodes = kernels[calls[shape.name][0].kernel].mma
        assert opcodes
        assert all(opcode.startswith("QGMMA") for opcode in opcodes)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("upcast", "provenance.precision"),
        ("library", "provenance.library"),
        ("nothing", "provenance.launch"),
        ("decoy", "provenance.precision"),
        ("memoised", "probe.memoised"),
        ("memoised_by_version", "probe.memoised"),
        ("empty_graph", "probe.memoised"),
        ("tired", "probe.memoised"),
        ("sniffing", "probe.sniffing"),
    ],
)
def test_dishonest_candidates_are_rejected(trace: Tracer, name: str, rule: str) -> None:
    found = rejections(trace(CANDIDATES / "dishonest" / f"{name}.py"))
    assert rule in [found_rule for found_rule, _, _ in found]
    assert all(status is Status.REJECTED for _, status, _ in found)


@pytest.mark.parametrize(
    ("name", "rule", "status", "line"),
    [
        ("shared_memory", "trace.compile", Status.COMPILE_ERROR, "matmul_kernel[grid]("),
        ("tile_of_192", "trace.compile", Status.COMPILE_ERROR, "return tile * BLOCK_N + tl.arange(0, BLOCK_N)"),
        ("option", "trace.compile", Status.COMPILE_ERROR, "matmul_kernel[grid]("),
        ("assembly", "trace.compile", Status.COMPILE_ERROR, "matmul_kernel[grid]("),
        ("host_error", "trace.exception", Status.CRASHED, "N = b.shap[0]"),
        ("grid", "launch.grid", Status.CRASHED, ""),
        ("no_allocator", "trace.exception", Status.CRASHED, "persistent_kernel[(programs,)]("),
        ("tma_stride", "launch.tma_stride", Status.CRASHED, ""),
    ],
)
def test_broken_candidates_are_told_by_rule_and_line(
    trace: Tracer, name: str, rule: str, status: Status, line: str
) -> None:
    path = CANDIDATES / "broken" / f"{name}.py"
    found = rejections(trace(path))
    assert found[0][:2] == (rule, status)
    if line:
        number = int(found[0][2].removeprefix("line "))
        assert path.read_text().splitlines()[number - 1].strip().startswith(line)


def test_a_swallowed_exception_is_told_with_its_line(trace: Tracer) -> None:
    result = trace(CANDIDATES / "broken" / "fallback_to_library.py")
    (fallback,) = [f for f in result.findings if f.rule == "trace.fallback"]
    assert "CompilationError" in fallback.message
    assert "fallback traced" in fallback.message
    assert fallback.status is None
    assert ("provenance.library", Status.REJECTED) in [found[:2] for found in rejections(result)]


@pytest.mark.parametrize(
    ("name", "words"), [("falls_back", "shared memory"), ("falls_back_to_pointers", "strides must be 16-byte aligned")]
)
def test_a_fall_back_to_another_kernel_is_traced_and_told(trace: Tracer, name: str, words: str) -> None:
    result = trace(CANDIDATES / "honest" / f"{name}.py")
    assert [f.rule for f in result.findings] == ["trace.fallback"]
    assert words in result.findings[0].message


def test_an_endless_host_function_ends_at_the_deadline(workers: Workers, task: Task, tmp_path: Path) -> None:
    result = Trace(workers, tmp_path, deadline=1.0).run(case(task, CANDIDATES / "broken" / "endless.py"), {})
    assert rejections(result) == [("trace.timeout", Status.TIMEOUT, "")]


def test_a_file_that_raises_when_imported_crashes_at_its_line(trace: Tracer) -> None:
    assert rejections(trace("import torch\n\nraise ValueError('no')\n"))[0][1:] == (Status.CRASHED, "line 3")


def test_autotuners_take_the_first_configuration_that_fits_and_say_so(trace: Tracer) -> None:
    result = trace(CANDIDATES / "honest" / "autotuned.py")
    assert len(result.facts["notes"]) == 1
    assert "matmul_kernel traced with configuration 2 of 3" in result.facts["notes"][0]


def test_a_host_that_reads_tensors_is_told_to_see_placeholders(trace: Tracer) -> None:
    assert any("placeholders" in note for note in trace(CANDIDATES / "honest" / "furniture.py").facts["notes"])


def test_aten_calls_are_counted_by_shape(trace: Tracer, task: Task) -> None:
    result = trace(CANDIDATES / "honest" / "furniture.py")
    assert {shape: counts["zero_"] for shape, counts in result.facts["aten"].items()} == {
        shape.name: 2 for shape in task.timing
    }
    assert all(us > 0 for us in result.facts["host_us"].values())


def test_what_aten_moves_is_known_by_shape(trace: Tracer, task: Task) -> None:
    eager = trace(CANDIDATES / "dishonest" / "library.py").artifacts["eager"]
    for shape in task.timing:
        m, n, k = (shape.dims[name] for name in "MNK")
        # The product reads a, b and two scales and writes bf16; copying that reads and writes it once more.
        assert eager[shape.name] == (2, m * k + n * k + 4 + 4 + 3 * 2 * m * n)


def test_a_program_per_multiprocessor_follows_the_target(trace: Tracer) -> None:
    path = CANDIDATES / "honest" / "device_descriptors.py"
    for target in ("h200", "b200"):
        calls = trace(path, target).artifacts["calls"]
        assert {launch.grid[0] for call in calls.values() for launch in call} == {product(target).sms}


@pytest.mark.parametrize(("target", "opcode"), [("b200", "UTCQMMA"), ("rtx-5090", "QMMA.16832.F32.E4M3.E4M3")])
def test_blackwell_is_compiled_for_as_well(trace: Tracer, target: str, opcode: str) -> None:
    (kernel,) = trace(FAMILIES / "k_major.py", target).artifacts["kernels"].values()
    assert opcode in kernel.mma
    assert kernel.hot_lines
    assert kernel.shared_limit == product(target).shared_per_block


def test_below_64_rows_the_compilers_unpacking_is_warned_of(workers: Workers, task: Task, store: Path) -> None:
    small = task.model_copy(update={"timing": (Shape(name="small", dims={"M": 16, "N": 4096, "K": 4096}),)})
    source = (CANDIDATES / "honest" / "graph.py").read_text().replace("128", "32")
    result = Trace(workers, store).run(case(small, source), {})
    assert result.outcome is Outcome.PASSED
    assert [f.rule for f in result.findings] == ["provenance.unpacked"]


def test_lines_are_those_of_the_file_and_the_hot_loop_is_the_k_loop(trace: Tracer) -> None:
    path = FAMILIES / "tma.py"
    (kernel,) = trace(path).artifacts["kernels"].values()
    text = path.read_text().splitlines()
    first, last, store = (
        next(n for n, line in enumerate(text, 1) if words in line)
        for words in ("for k in range(", "acc *= tl.load", "out_desc.store(")
    )
    assert {int(line) for line in kernel.hot_lines} <= set(range(first, last))
    assert sum(counts.get("QGMMA", 0) for counts in kernel.hot_lines.values()) == sum(kernel.mma.values())
    assert "UTMASTG" in kernel.lines[str(store)]
    assert kernel.depth == 3


def test_facts_depend_on_the_parameters_of_the_trial(trace: Tracer) -> None:
    (small,) = trace(FAMILIES / "naive.py", BLOCK_N=128).artifacts["kernels"].values()
    (large,) = trace(FAMILIES / "naive.py").artifacts["kernels"].values()
    assert list(small.mma) == ["QGMMA.64x128x32.F32.E4M3.E4M3"]
    assert list(large.mma) == ["QGMMA.64x64x32.F32.E4M3.E4M3"]


def test_an_unchanged_file_is_answered_without_compiling(workers: Workers, task: Task, tmp_path: Path) -> None:
    first = Trace(workers, tmp_path).run(case(task, FAMILIES / "naive.py"), {})
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "compiled").iterdir()}
    second = Trace(workers, tmp_path).run(case(task, FAMILIES / "naive.py"), {})
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "compiled").iterdir()} == written
    assert second.artifacts["kernels"] == first.artifacts["kernels"]


def test_a_torn_result_on_disk_is_compiled_again(workers: Workers, task: Task, tmp_path: Path) -> None:
    first = Trace(workers, tmp_path).run(case(task, FAMILIES / "naive.py"), {})
    for path in (tmp_path / "compiled").glob("*.json"):
        path.write_text(path.read_text()[:100])
    second = Trace(workers, tmp_path).run(case(task, FAMILIES / "naive.py"), {})
    assert second.artifacts["kernels"] == first.artifacts["kernels"]


JIT = """
import importlib.util, io, json, sys
from contextlib import redirect_stdout
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

class Driver:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 0

triton.runtime.driver.set_active(Driver())
triton.knobs.nvidia.dump_ptxas_log = True
torch.cuda.get_device_properties = lambda device=None: type("P", (), {"multi_processor_count": 132})
kernels = []
run = JITFunction.run
def compile_only(self, *args, grid, warmup, **kwargs):
    with redirect_stdout(io.StringIO()) as log:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    kernels.append({"name": kernel.name, "shared": kernel.metadata.shared, "log": log.getvalue()})
JITFunction.run = compile_only
spec = importlib.util.spec_from_file_location("kernel", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
f8, f32, bf16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16
sizes = (((4096, 4096), f8), ((4096, 4096), f8), ((1,), f32), ((1,), f32), ((4096, 4096), bf16))
module.fp8_gemm(*(torch.empty(size, dtype=dtype) for size, dtype in sizes))
print(json.dumps(kernels))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["k_major", "split_k", "gluon_ws"])
def test_registers_spills_and_shared_memory_are_those_of_tritons_own_jit(
    trace: Tracer, tmp_path: Path, family: str
) -> None:
    from kopt.evaluate.sass import resources

    path = FAMILIES / f"{family}.py"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JIT), str(path)],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {}
    for kernel in json.loads(done.stdout):
        used = resources(kernel["log"])
        expected[kernel["name"]] = (used.registers, used.spill_stores, used.spill_loads, kernel["shared"])
    result = trace(path)
    launched = {launch.kernel for launch in result.artifacts["calls"]["4k-cube"]}
    assert expected == {
        k.name: (k.registers, k.spill_stores, k.spill_loads, k.shared)
        for id, k in result.artifacts["kernels"].items()
        if id in launched
    }


@pytest.mark.parametrize(
    "question",
    [
        {"compile": 7},
        {"compile": "module {}", "ext": "ptx", "options": {}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": [], "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {"num_warps": {}}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {}, "metadata": {"tensordesc_meta": 3}},
        {"compile": "module {}", "ext": "ttir", "options": {"ir_override": "/etc/passwd"}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {"extern_libs": [["evil", "/x.bc"]]}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {"ptx_options": "-o /tmp/x"}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {"unheard_of": 1}, "metadata": {}},
        {"compile": "not MLIR", "ext": "ttir", "options": {}, "metadata": {}},
        {"compile": "module {}", "ext": "ttir", "options": {"num_warps": 3}, "metadata": {}},
    ],
)
def test_a_hostile_request_to_compile_is_refused_not_obeyed(
    workers: Workers, tmp_path: Path, question: dict[str, object]
) -> None:
    compiler = Compiler(workers, tmp_path)
    compiled = compiler.result(compiler.submit(question, 90))
    compiler.close()
    assert compiled.error
    assert not compiled.cubin


@pytest.mark.parametrize(
    ("grid", "rule", "words"),
    [
        ("10**400", "launch.grid", "k_major_kernel: grid x = 9007199254740992 or more, above CUDA's limit"),
        ("-1", "launch.grid", "k_major_kernel: grid x is negative"),
        ("float('inf')", "trace.exception", "'float' object cannot be interpreted as an integer"),
        ("float('nan')", "trace.exception", "'float' object cannot be interpreted as an integer"),
    ],
)
def test_a_grid_that_cannot_be_is_told_with_its_launch(trace: Tracer, grid: str, rule: str, words: str) -> None:
    source = (FAMILIES / "k_major.py").read_text().replace("k_major_kernel[grid]", f"k_major_kernel[({grid},)]")
    findings = [f for f in trace(source).findings if f.status]
    assert [(f.rule, f.status) for f in findings if f.rule == rule] == [(rule, Status.CRASHED)]
    assert any(words in f.message for f in findings)


HOSTILE = """
import gc
import torch

ASKED = {{"compile": "", "ext": "ttir", "options": {{}}, "metadata": {{}}}}
LAUNCHED = {{"launch": "x", "name": "k", "grid": [1, 1, 1], "allocator": 0, "descriptors": [], "arguments": []}}

def fp8_gemm(a, b, scale_a, scale_b, out):
    for thing in gc.get_objects():
        if type(thing).__name__ == "Front":
            {attack}
"""


@pytest.mark.parametrize(
    "attack",
    [
        'thing._ask({"results": 7})',
        'thing._ask({"results": ["x", None, {}]})',
        "thing._ask({})",
        'thing.tape.add({"launch": "forged", "name": "k", "grid": [1, 1, 1], "allocator": 0, "descriptors": []})',
        'thing.tape.add({"launch": 1, "name": None, "grid": [1e400, -1], "allocator": 0, "descriptors": []})',
        'thing.tape.add({"aten": "mm"})',
        "thing._ask({**ASKED, 'options': {'num_warps': 10**400}})",
        "thing._ask({**ASKED, 'options': {'x' * 10**6: 1}})",
        "thing._ask({**ASKED, 'metadata': {'tensordesc_meta': [{'block_size': [1e999]}]}})",
        "thing.tape.add({**LAUNCHED, 'descriptors': [{'address': 0, 'itemsize': 1, 'strides': []}]})",
        "thing.tape.add({**LAUNCHED, 'grid': [10**400] * 3})",
        "thing.tape.add({'aten': 'fill_', 'elements': 1, 'bytes': 1, 'fill': {'type': 'unknown', 'unknown': ''}})",
        'thing.tape.events = "nonsense"',
    ],
)
def test_a_candidate_that_forges_its_report_does_not_pass_and_does_not_harm(trace: Tracer, attack: str) -> None:
    assert trace(HOSTILE.format(attack=attack)).outcome is Outcome.FAILED


def test_a_kernel_cannot_talk_ptxas_into_a_full_disk(tmp_path: Path) -> None:
    from triton.runtime.errors import PTXASError

    from kopt.evaluate.worker.compile import _no_room

    assert _no_room(PTXASError("fatal : No space left on device"), tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
