"""A new task runs as it stands, whether from the template or from a function; a new workspace overwrites nothing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kopt import content, scaffold, signature
from kopt.errors import HarnessError, UsageError
from kopt.evaluate import hooks
from kopt.evaluate.policy import check
from kopt.records import Outcome

FUSED = '''
import torch
import torch.nn.functional as F
from pathlib import Path

EPS = 1e-6


def norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def fused(x: "bf16[M, K]", gate: "bfloat16[M, K]", w: "float32[K]", scale=1.0) -> "bf16[M, K]":
    """Gated norm."""
    return norm(x) * w * F.silu(gate) * scale
'''


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FUSED)
    return f"{tmp_path / 'mine.py'}:fused"


@pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")
@pytest.mark.parametrize("from_function", [False, True], ids=["template", "function"])
def test_a_new_task_passes_numerics_with_its_family_and_fails_with_its_skeleton(
    from_function: bool, source: str, tmp_path: Path
) -> None:
    from kopt.evaluate.numerics import Numerics
    from kopt.evaluate.stage import Case
    from kopt.evaluate.workers import Workers
    from kopt.machine.products import product
    from kopt.records import Submission

    scaffold.new_task("mine", tmp_path, source if from_function else None)
    task = content.load_task("mine", tmp_path)
    (family,) = content.families(task, tmp_path)
    outcomes = []
    with Workers() as workers:
        numerics = Numerics(workers, tmp_path)
        for text in (family.read_text(), content.skeleton(task)):
            assert not [f for f in check(text, task.entry, len(task.tensors)) if f.status]
            submission = Submission(n=1, sha="0", origin="user")
            outcomes.append(numerics.run(Case(task, submission, text, product("h200")), {}).outcome)
    assert outcomes == [Outcome.PASSED, Outcome.FAILED]


def test_a_function_gives_tensors_sizes_and_bytes(source: str, tmp_path: Path) -> None:
    scaffold.new_task("gated", tmp_path, source)
    task = content.load_task("gated", tmp_path)
    assert [(t.name, t.role, t.dtype, t.dims) for t in task.tensors] == [
        ("x", "input", "bfloat16", ("M", "K")),
        ("gate", "input", "bfloat16", ("M", "K")),
        ("w", "input", "float32", ("K",)),
        ("out", "output", "bfloat16", ("M", "K")),
    ]
    cost = hooks.cost(task, task.timing[0])
    assert cost.read == 2 * 2 * 4096 * 4096 + 4 * 4096
    assert cost.written == 2 * 4096 * 4096
    assert content.description(task).startswith("# gated")


def test_the_family_made_from_a_function_keeps_what_it_needs_and_no_other_import(source: str, tmp_path: Path) -> None:
    scaffold.new_task("gated", tmp_path, source)
    text = (tmp_path / "kernels" / "gated" / "eager.py").read_text()
    assert "pathlib" not in text
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert {"norm", "eager", "gated", "store_kernel"} == names
    assert "EPS = 1e-06" in text


@pytest.mark.parametrize(
    ("annotation", "spec"),
    [
        ('"fp8[N, 16]"', ("float8_e4m3fn", ("N", 16))),
        ('Annotated[Tensor, "int32[N]"]', ("int32", ("N",))),
        ('Float32[Tensor, "M K"]', ("float32", ("M", "K"))),
        ('jaxtyping.BFloat16[torch.Tensor, "M 8"]', ("bfloat16", ("M", 8))),
    ],
)
def test_ways_to_write_a_tensor(annotation: str, spec: tuple[str, tuple[str | int, ...]], tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text(f"def f(x: {annotation}) -> tuple['bf16[M]', {annotation}]: ...\n")
    first, one, two = signature.read(f"{path}:f").tensors
    assert (first.dtype, first.dims) == (two.dtype, two.dims) == spec
    assert [t.name for t in (one, two)] == ["out_0", "out_1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(x): ...", "the sizes of x are not known; annotate every tensor"),
        ("def f(x: Tensor) -> 'bf16[M]': ...", "the sizes of x are not known"),
        ("def f(x: 'bf16[M]'): ...", "the sizes of the result are not known"),
        ("def f(x: 'bf17[M]') -> 'bf16[M]': ...", "x: unknown dtype 'bf17'; known: float64"),
        ("def f(x: 'bf16[M+1]') -> 'bf16[M]': ...", "'M+1' is neither the name of a size nor a number"),
        ("def f(x: 'bf16[]') -> 'bf16[M]': ...", "write bfloat16[1]"),
        ("def f() -> 'bf16[M]': ...", "it takes no tensors"),
        ("def f(out: 'bf16[M]') -> 'bf16[M]': ...", "may not be called out"),
        ("def g(x: 'bf16[M]') -> 'bf16[M]': ...", "has no function f()"),
        ("def f(x:", "cannot be read"),
    ],
)
def test_what_a_function_lacks_is_said_with_an_example(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        scaffold.new_task("mine", tmp_path, f"{path}:f")
    assert says in str(error.value)
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize("reference", ["nowhere.at.all:f", "f", "missing.py:f", "sys:f", "math:"])
def test_a_function_that_cannot_be_found_is_named(reference: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--from {reference}"):
        scaffold.new_task("mine", tmp_path, reference)


@pytest.mark.parametrize("name", ["two words", "1st", "class", "", "a-b", "../up"])
def test_a_name_that_is_no_function_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a task's name"):
        scaffold.new_task(name, tmp_path)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is a task fp8_gemm already"):
        scaffold.new_task("fp8_gemm", tmp_path)
    (tmp_path / "tasks" / "half").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"without a task\.toml"):
        scaffold.new_task("half", tmp_path)


def test_init_makes_a_workspace_and_leaves_one_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "workspace"
    assert folder / content.MARKER in scaffold.init(folder)
    (folder / content.MARKER).write_text("# mine\n")
    assert scaffold.init(folder) == ()
    assert (folder / content.MARKER).read_text() == "# mine\n"
    assert all((folder / name).is_dir() for name in scaffold.FOLDERS)


def test_init_says_what_stands_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text("a file")
    with pytest.raises(UsageError, match="tasks: cannot be made"):
        scaffold.init(tmp_path)


Full = Callable[[], AbstractContextManager[None]]


def test_on_a_full_disk_no_half_workspace_stays(tmp_path: Path, full_disk: Full) -> None:
    with pytest.raises(HarnessError, match=r"kopt\.toml: cannot be made: File too large"), full_disk():
        scaffold.init(tmp_path / "deep" / "workspace")
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_no_half_task_stays(tmp_path: Path, full_disk: Full) -> None:
    (tmp_path / "tasks").mkdir()
    with pytest.raises(HarnessError, match=r"tasks/mine/task\.toml: cannot be made: File too large"), full_disk():
        scaffold.new_task("mine", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["tasks"]
