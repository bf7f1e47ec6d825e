"""The numerics stage: what a candidate can do to it, and what it says. Real children, a task of a few elements."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kopt import content, scaffold
from kopt.errors import UsageError
from kopt.evaluate.answers import Answers, problems
from kopt.evaluate.evaluator import Evaluator
from kopt.evaluate.numerics import Numerics
from kopt.evaluate.stage import Case
from kopt.evaluate.workers import Workers
from kopt.machine.products import product
from kopt.records import Outcome, Parameters, StageResult, Status, Submission, Task, digest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

Check = Callable[..., StageResult]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """out = max(x + y, 0), [M, N] bf16, as `kopt tasks new` makes it."""
    root = tmp_path_factory.mktemp("workspace")
    return content.read_task(scaffold.new_task("add", root))


@pytest.fixture(scope="module")
def numerics(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Numerics:
    return Numerics(workers, tmp_path_factory.mktemp("store"))


@pytest.fixture
def check(numerics: Numerics, task: Task) -> Check:
    def run(source: str, parameters: Parameters | None = None) -> StageResult:
        return numerics.run(case(task, source, parameters or {}), {})

    return run


def case(task: Task, source: str, parameters: Parameters | None = None) -> Case:
    submission = Submission(n=1, sha=digest(source), origin="user")
    return Case(task, submission, source, product("h200"), parameters or {})


KERNEL = """
import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count).to(tl.float32)
    y = tl.load(y_ptr + at, mask=at < count).to(tl.float32)
    tl.store(out_ptr + at, tl.maximum(x + y, 0.0).to(tl.bfloat16), mask=at < count)


def add(x, y, out, *, BLOCK=4096):
    grid = (triton.cdiv(out.numel(), BLOCK),)
    add_kernel[grid](x, y, out, out.numel(), BLOCK=BLOCK)
"""
LAUNCH = "    add_kernel[grid](x, y, out, out.numel(), BLOCK=BLOCK)\n"


def before(text: str) -> str:
    """The kernel with a line before its launch."""
    return KERNEL.replace(LAUNCH, f"    {text}\n{LAUNCH}")


def in_place_of_launch(text: str) -> str:
    assert LAUNCH in KERNEL
    return KERNEL.replace(LAUNCH, text)


def test_an_honest_kernel_passes_and_its_errors_are_facts(check: Check, task: Task) -> None:
    result = check(KERNEL)
    assert result.outcome is Outcome.PASSED
    assert result.facts["problems"] == len(problems(task))
    assert set(result.facts["worst"]) == {shape.name for shape in task.check_cpu}
    assert 0 < result.facts["worst"]["ragged"]["of_bound"] < 1


def test_the_parameters_of_a_trial_reach_the_entry(check: Check) -> None:
    refusing = before("assert BLOCK == 256, BLOCK")
    assert check(refusing, {"BLOCK": 256}).outcome is Outcome.PASSED
    assert check(refusing).outcome is Outcome.FAILED


def test_a_wrong_result_names_shape_family_element_values_and_bound(check: Check) -> None:
    finding = check(KERNEL.replace("x + y, 0.0", "x + y, 0.5")).findings[0]
    assert finding.rule in ("numerics.bound", "numerics.exact")
    assert finding.status is Status.WRONG
    assert finding.shape == "ragged" or finding.shape == "smallest"
    assert "out[" in finding.place
    assert float(finding.got) == 0.5
    assert float(finding.bound) < 0.5


def test_more_findings_than_help_are_counted(check: Check) -> None:
    findings = check(KERNEL.replace("x + y", "x - y")).findings
    assert findings[-1].rule == "numerics.more" or len(findings) <= 8
    assert len(findings) <= 9


@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        (before("raise ValueError('no such tile')"), Status.CRASHED, "ValueError: no such tile (kernel.py:17)"),
        (KERNEL.replace("at = tl", "at = nothing"), Status.CRASHED, "nothing"),
        ("def add(:\n", Status.COMPILE_ERROR, "syntax"),
        ("import torch\nraise OSError('at import')\n", Status.CRASHED, "at import"),
        (KERNEL.replace("def add(", "def subtract("), Status.REJECTED, "add()"),
        (before("import sys; sys.exit(0)"), Status.CRASHED, "sys.exit"),
        (before("import os; os._exit(0)"), Status.CRASHED, "exited"),
    ],
    ids=["host", "kernel", "syntax", "import", "entry", "sys.exit", "os._exit"],
)
def test_what_breaks_is_one_line_with_its_place(source: str, status: Status, says: str, check: Check) -> None:
    result = check(source)
    assert result.outcome is Outcome.FAILED
    finding = result.findings[0]
    assert finding.status is status
    assert says in finding.message
    assert "\n" not in finding.message


def test_a_crash_names_the_shape_it_happened_in(check: Check) -> None:
    finding = check(before("assert out.shape[0] != 17 or out.shape[1] != 31")).findings[0]
    assert (finding.shape, finding.place) == ("ragged", "normal")


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (before("while out.shape[0] == 17: pass"), "ragged"),
        (KERNEL.replace("    at = tl", "    i = 0\n    while i < count:\n        i = i * 1\n    at = tl"), "smallest"),
        (KERNEL + "while True: pass\n", ""),
    ],
    ids=["host", "kernel", "import"],
)  # fmt: skip
def test_an_endless_loop_is_a_timeout_that_names_the_shape(
    source: str, shape: str, workers: Workers, task: Task, tmp_path: Path
) -> None:
    result = Numerics(workers, tmp_path, deadline=3).run(case(task, source), {})
    assert [f.status for f in result.findings] == [Status.TIMEOUT]
    assert result.findings[0].shape == shape


def test_a_kernel_of_gluon_is_unavailable_and_not_passed(check: Check) -> None:
    source = KERNEL.replace("@triton.jit", "from triton.experimental import gluon\n@gluon.jit")
    result = check(source)
    assert result.outcome is Outcome.UNAVAILABLE
    assert "add_kernel is a Gluon kernel" in result.findings[0].message


def test_a_fallback_cannot_hide_that_a_kernel_is_unavailable(check: Check) -> None:
    source = KERNEL.replace("@triton.jit", "from triton.experimental import gluon\n@gluon.jit")
    caught = source.replace(LAUNCH, f"    try:\n    {LAUNCH}    except Exception:\n        out.copy_((x + y).relu())\n")
    assert check(caught).outcome is Outcome.UNAVAILABLE


def test_what_the_interpreter_does_not_know_is_unavailable(check: Check) -> None:
    assembly = "tl.inline_asm_elementwise('mov.b32 $0, $1;', '=r,r', [x], dtype=tl.float32, is_pure=True, pack=1)"
    result = check(KERNEL.replace("    y = tl", f"    x = {assembly}\n    y = tl"))
    assert result.outcome is Outcome.UNAVAILABLE
    assert "interpreter" in result.findings[0].message


@pytest.mark.parametrize(
    "forgery",
    [
        "import os; os.symlink('/etc/passwd', '0.out')",
        "import os; os.mkfifo('0.out')",
        "import os; os.mkdir('0.out')",
    ],
)
def test_what_lies_in_place_of_a_result_is_not_followed(forgery: str, check: Check) -> None:
    source = in_place_of_launch(f"{LAUNCH}    {forgery}\n    import os; os._exit(0)\n")
    assert check(source).outcome is Outcome.FAILED


FORGERY = """
    import gc
    for thing in gc.get_objects():
        if type(thing) is dict and set(thing) == {{"inputs", "outside", "launches", "aten"}}:
            thing.update({forged})
"""


@pytest.mark.parametrize(
    "forged",
    ['aten=1', 'aten=[[]]', 'aten=None', 'inputs=None', 'outside={}', 'outside=1 << 4000', 'launches="many"',
     'launches=float("nan")', 'launches=-1'],
)  # fmt: skip
def test_an_account_that_is_none_is_rejected(forged: str, check: Check) -> None:
    result = check(in_place_of_launch(LAUNCH + FORGERY.format(forged=forged)))
    assert [(f.rule, f.status) for f in result.findings] == [("numerics.report", Status.REJECTED)]


def test_no_expected_value_lies_on_the_disk_while_a_candidate_runs(check: Check) -> None:
    """It looks in every folder beside its own, and copies what it finds to where results go."""
    looks = (
        "    import glob\n    found = glob.glob('../../**/*.want', recursive=True)\n"
        "    assert not found, found\n" + LAUNCH
    )
    assert check(in_place_of_launch(looks)).outcome is Outcome.PASSED


def test_writing_an_input_is_found(check: Check) -> None:
    findings = check(in_place_of_launch(LAUNCH + "    x.zero_()\n")).findings
    assert "numerics.inputs" in {f.rule for f in findings}


def test_writing_outside_the_output_is_found(check: Check) -> None:
    source = KERNEL.replace("to(tl.bfloat16), mask=at < count", "to(tl.bfloat16), mask=at <= count")
    findings = check(source).findings
    assert "numerics.outside" in {f.rule for f in findings}


def test_a_result_that_differs_from_call_to_call_is_found(check: Check) -> None:
    """Within every bound: only the third call of each shape, which repeats the first, differs from it."""
    source = in_place_of_launch(LAUNCH + "    calls.append(0)\n    out.mul_(1 if len(calls) % 3 else 1.008)\n")
    findings = check(source.replace("def add(", "calls = []\n\n\ndef add(")).findings
    assert {f.rule for f in findings} == {"numerics.determinism"}
    assert {f.place for f in findings} == {"normal"}


IN_INTERPRETER = "    if triton.knobs.runtime.interpret:\n        "


def test_a_result_without_a_kernel_is_rejected(check: Check) -> None:
    source = in_place_of_launch(IN_INTERPRETER + "return out.copy_((x + y).relu())\n" + LAUNCH)
    findings = check(source).findings
    assert {f.status for f in findings[:8]} == {Status.REJECTED}
    assert "numerics.launch" in {f.rule for f in findings}


def test_a_library_behind_a_kernel_is_rejected(check: Check) -> None:
    source = in_place_of_launch(LAUNCH + IN_INTERPRETER + "torch.mm(x.float(), y.float().T)\n")
    assert {f.rule for f in check(source).findings[:8]} == {"numerics.library"}


def test_a_wrong_result_before_what_is_unavailable_is_still_wrong(check: Check) -> None:
    source = KERNEL.replace("x + y", "x - y").replace("def add(", GLUON + "\n\ndef add(")
    late = source.replace(LAUNCH, LAUNCH + "    if out.shape[0] > 100:\n        nothing[(1,)](out)\n")
    assert check(late).outcome is Outcome.FAILED
    assert check(late.replace("x - y", "x + y")).outcome is Outcome.UNAVAILABLE


GLUON = """
from triton.experimental import gluon


@gluon.jit
def nothing(out_ptr):
    pass
"""


TUNED = (
    KERNEL.replace(
        "@triton.jit",
        "@triton.autotune([triton.Config({'BLOCK': 1 << n}) for n in (12, 10, 8)], key=['count'])\n@triton.jit",
    )
    .replace("BLOCK=BLOCK)", ")")
    .replace("    grid = ", "    grid = lambda meta: ")
    .replace("out.numel(), BLOCK)", "out.numel(), meta['BLOCK'])")
)


def test_every_configuration_of_an_autotuned_kernel_has_its_turn(check: Check) -> None:
    assert check(TUNED).outcome is Outcome.PASSED
    broken = TUNED.replace("x + y", "x + y * (BLOCK > 256)")
    assert {f.shape for f in check(broken).findings} == {"long-M"}


def test_a_captured_graph_does_its_work_at_replay_and_not_before(check: Check) -> None:
    graphed = in_place_of_launch(
        "    key = (x.data_ptr(), y.data_ptr(), out.data_ptr())\n"
        "    if key not in graphs:\n"
        "        graph = torch.cuda.CUDAGraph()\n"
        "        with torch.cuda.graph(graph):\n"
        "            total = torch.empty_like(out)\n"
        "            total.copy_(x)\n"
        "            add_kernel[grid](total, y, out, out.numel(), BLOCK=BLOCK)\n"
        "        graphs[key] = graph\n"
        "    graphs[key].replay()\n"
    ).replace("def add(", "graphs = {}\n\n\ndef add(")
    assert check(graphed).outcome is Outcome.PASSED
    assert check(graphed.replace("    graphs[key].replay()\n", "")).outcome is Outcome.FAILED


PERSISTENT = """
import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, count, programs, BLOCK: tl.constexpr):
    for tile in range(tl.program_id(0), tl.cdiv(count, BLOCK), programs):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < count).to(tl.float32)
        y = tl.load(y_ptr + at, mask=at < count).to(tl.float32)
        tl.store(out_ptr + at, tl.maximum(x + y, 0.0).to(tl.bfloat16), mask=at < count)


def add(x, y, out, *, BLOCK=1024):
    sms = torch.cuda.get_device_properties(x.device).multi_processor_count
    programs = min(sms, triton.cdiv(out.numel(), BLOCK))
    add_kernel[(programs,)](x, y, out, out.numel(), programs, BLOCK=BLOCK)
"""


def test_a_persistent_kernel_takes_several_tiles_per_program(check: Check) -> None:
    assert check(PERSISTENT).outcome is Outcome.PASSED
    once = PERSISTENT.replace("tl.cdiv(count, BLOCK), programs)", "tl.program_id(0) + 1, programs)")
    assert check(once).outcome is Outcome.FAILED


def test_casts_round_as_on_a_gpu(workers: Workers, tmp_path: Path) -> None:
    """To bf16 and e4m3: nearest, ties to even, saturating; and an e4m3 NaN stays NaN."""
    root = tmp_path / "workspace"
    task = scaffold.new_task("cast", root)
    toml = (task / "task.toml").read_text()
    toml = toml.replace(
        'name = "out"\nrole = "output"\ndtype = "bfloat16"', 'name = "out"\nrole = "output"\ndtype = "float32"'
    )
    toml = toml.replace('role = "input"\ndtype = "bfloat16"', 'role = "input"\ndtype = "float32"')
    (task / "task.toml").write_text(
        toml.replace('exact_inputs = ["integers"]', 'exact_inputs = ["integers", "normal"]')
    )
    hooks = (task / "task.py").read_text().replace('"bfloat16"', '"float32"')
    start, end = hooks.index('    return {"out": (inputs'), hooks.index("# An optional hook")
    reference = (
        "    import torch\n\n    half = inputs['x'].to(torch.bfloat16).double()\n"
        "    eighth = (inputs['y'] * 200).clamp(-448, 448).to(torch.float8_e4m3fn).double()\n"
        "    return {'out': half + eighth}\n\n\n"
    )
    (task / "task.py").write_text(hooks[:start] + reference + hooks[end:])
    casts = "x.to(tl.bfloat16).to(tl.float32) + (y * 200).to(tl.float8e4nv).to(tl.float32)"
    source = KERNEL.replace("def add(", "def cast(").replace("tl.maximum(x + y, 0.0).to(tl.bfloat16)", casts)
    loaded = content.read_task(task)
    assert Numerics(workers, tmp_path).run(case(loaded, source), {}).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    import torch\n\n    rng", "    raise KeyError('seed')\n    rng", "make_inputs() raised KeyError: 'seed'"),
        ('"x": ("bfloat16"', '"x": ("float32"', "make_inputs(): x is float32, task.toml says bfloat16"),
        ('return {"out": (', 'return {"result": (', "reference() must return a dictionary of out"),
        (".clamp(min=0)}", ".clamp(min=0)[:1, :1].expand(2, 2)}", "reference(): out is (2, 2), task.toml says (1, 1)"),
    ],
)
def test_a_hook_that_breaks_its_contract_is_named(
    old: str, new: str, says: str, workers: Workers, tmp_path: Path
) -> None:
    folder = scaffold.new_task("add", tmp_path / "workspace")
    text = (folder / "task.py").read_text()
    assert old in text
    (folder / "task.py").write_text(text.replace(old, new))
    with pytest.raises(UsageError) as error:
        Numerics(workers, tmp_path).run(case(content.read_task(folder), KERNEL), {})
    assert says in str(error.value)


def test_a_check_of_the_tasks_own_replaces_the_comparison(workers: Workers, tmp_path: Path) -> None:
    folder = scaffold.new_task("add", tmp_path / "workspace")
    with (folder / "task.py").open("a") as file:
        file.write(
            "\n\ndef check(inputs, outputs, expected, dims, family):\n"
            "    got = outputs['out'].double()\n"
            "    if (got == expected['out'].to(got.dtype)).all() and family == 'integers' and dims['M'] == 17:\n"
            "        return [{'message': 'too good to be true', 'place': 'out'}]\n"
            "    return []\n"
        )
    result = Numerics(workers, tmp_path).run(case(content.read_task(folder), KERNEL), {})
    assert {(f.rule, f.place, f.message) for f in result.findings} == {
        ("numerics.check", "integers out", "too good to be true")
    }


def test_inputs_and_answers_are_made_once_per_task_and_seed(workers: Workers, task: Task, tmp_path: Path) -> None:
    answers = Answers(workers, tmp_path)
    first = answers.prepare(task, 0, problems(task))
    assert answers.prepare(task, 0, problems(task)) is first
    assert answers.prepare(task, 1, problems(task)).inputs != first.inputs
    assert not list(tmp_path.iterdir())


def test_what_is_timed_and_was_not_checked_is_said(task: Task) -> None:
    other = (
        KERNEL.replace("def add_kernel(", "def large_kernel(")
        .partition("\n\n\ndef add(")[0]
        .partition("@triton.jit")[2]
    )
    dispatched = KERNEL.replace("\n\ndef add(", f"\n\n@triton.jit{other}\n\n\ndef add(").replace(
        LAUNCH,
        "    if out.numel() > 1 << 16:\n"
        "        large_kernel[grid](x, y, out, out.numel(), BLOCK=BLOCK)\n"
        "        return\n"
        f"{LAUNCH}    out.copy_((x.float() + y.float()).relu())\n",
    )
    with Evaluator(task) as evaluator:
        said = {}
        for source in (KERNEL, dispatched):
            stages = {stage.stage: stage for stage in evaluator.evaluate(source).stages}
            assert stages["numerics"].outcome is Outcome.PASSED
            said[source] = [f.message for f in stages["numerics"].findings if f.rule == "numerics.elsewhere"]
    assert said[KERNEL] == []
    kernels, operations = said[dispatched]
    assert kernels.startswith("large_kernel: ")
    assert "aten::add, aten::relu," in operations
