"""The families of every task keep the contract of a kernel file; read as source, without torch or triton."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from kopt import content
from kopt.records import Task

ROOT = Path(__file__).parents[2]
FAMILIES = sorted(path for path in (ROOT / "kernels").glob("*/*.py") if not path.name.startswith("_"))
FOLDERS = sorted({path.parent for path in FAMILIES})
NOT_FOR_KERNELS = {"os", "sys", "inspect", "subprocess", "pathlib", "io", "ctypes", "importlib"}

each_family = pytest.mark.parametrize("path", FAMILIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def task(path: Path) -> Task:
    return content.read_task(ROOT / "tasks" / path.parent.name)


def constants(path: Path) -> dict[str, object]:
    values = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return values


def entry(path: Path) -> ast.FunctionDef:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return next(function for function in functions if function.name == task(path).entry)


def defaults(path: Path) -> dict[str, object]:
    arguments = entry(path).args
    return {
        arg.arg: ast.literal_eval(value)
        for arg, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    }


@each_folder
def test_rungs_count_up_from_one_and_classes_differ(folder: Path) -> None:
    here = [constants(path) for path in FAMILIES if path.parent == folder]
    assert sorted(found["RUNG"] for found in here) == list(range(1, len(here) + 1))
    assert len({found["CLASS"] for found in here}) == len(here)


@each_family
def test_entry_takes_the_tasks_tensors_in_order(path: Path) -> None:
    assert [arg.arg for arg in entry(path).args.args] == [tensor.name for tensor in task(path).tensors]


@each_family
def test_every_tuned_name_is_a_parameter_whose_default_is_a_choice(path: Path) -> None:
    tune, given = constants(path)["TUNE"], defaults(path)
    assert tune.keys() == given.keys()
    assert all(given[name] in choices for name, choices in tune.items())


@each_family
def test_imports_are_torch_triton_and_harmless_stdlib(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for top in (name.split(".")[0] for name in names):
            assert top in {"torch", "triton"} or (top in sys.stdlib_module_names and top not in NOT_FOR_KERNELS)


@each_family
def test_first_line_of_the_docstring_says_what_the_rung_adds(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
    assert 20 < len(first) <= 114
    assert first.endswith(".")


@each_folder
def test_readme_has_every_rung_with_its_file_and_class(folder: Path) -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+\.py)` \| `([\w-]+)` \|", (folder / "README.md").read_text(), re.M)
    listed = {(int(rung), name, kind) for rung, name, kind in rows}
    here = [path for path in FAMILIES if path.parent == folder]
    assert listed == {(constants(path)["RUNG"], path.name, constants(path)["CLASS"]) for path in here}


def test_what_adaptive_attention_took_over_is_still_what_it_was() -> None:
    """A file stands alone, so it repeats what it shares; this holds the copies together."""

    def functions(name: str) -> dict[str, str]:
        tree = ast.parse((ROOT / "kernels" / "msa_attend" / f"{name}.py").read_text())
        return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}

    both, union, kv_outer = (functions(name) for name in ("adaptive", "union", "kv_outer"))
    ours = {"size_kernel", "union_kernel", "left", "mark_kernel", "combine_kernel", "msa_attend"}
    assert {name for name in both if both[name] not in (union.get(name), kv_outer.get(name))} == ours
