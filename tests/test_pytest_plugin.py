"""pytest --kopt-task T --kopt-kernel FILE, in a process of its own, from a folder that holds the kernel and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import kopt
from kopt import scaffold

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the task add, its kernel, one that is wrong in a corner, and a test that would fail."""
    root = tmp_path_factory.mktemp("workspace")
    scaffold.init(root)
    scaffold.new_task("add", root)
    text = (root / "kernels" / "add" / "naive.py").read_text()
    (root / "good.py").write_text(text)
    (root / "bad.py").write_text(text.replace("x + y", "x + y + (at == 40) * 99.0"))
    (root / "test_other.py").write_text("def test_other():\n    assert False\n")
    return root


def pytest_in(folder: Path, *options: str) -> tuple[int, str]:
    installed = any(point.value == "kopt.pytest_plugin" for point in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "kopt.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", *options]
    path = os.pathsep.join([str(Path(kopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


def test_a_right_kernel_passes_item_by_item_and_nothing_else_is_collected(folder: Path) -> None:
    code, text = pytest_in(folder, "--kopt-task", "add", "--kopt-kernel", "good.py", "-v")
    assert code == 0
    for name in ("smallest-normal", "ragged-integers", "long-M-normal"):
        assert f"good.py::add[{name}] PASSED" in text
    assert "test_other" not in text


def test_a_wrong_kernel_fails_where_it_is_wrong_with_the_finding_and_no_traceback(folder: Path) -> None:
    code, text = pytest_in(folder, "--kopt-task", "add", "--kopt-kernel", "bad.py", "-v")
    assert code == 1
    assert "add[smallest-normal] PASSED" in text
    assert "add[ragged-integers] FAILED" in text
    assert "numerics.exact: ragged integers out[1, 9]: got " in text
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text


def test_k_selects_what_is_run(folder: Path) -> None:
    code, text = pytest_in(folder, "--kopt-task", "add", "--kopt-kernel", "bad.py", "-k", "smallest")
    assert code == 0
    assert "2 passed" in text


def test_parameters_reach_the_kernel(folder: Path) -> None:
    options = ("--kopt-task", "add", "--kopt-kernel", "good.py", "-k", "smallest", "--kopt-param", "BLOCK=100")
    code, text = pytest_in(folder, *options)
    assert code == 1
    assert "power of 2" in text


def test_explicit_tests_run_beside_the_kernel(folder: Path) -> None:
    code, text = pytest_in(folder, "test_other.py", "--kopt-task", "add", "--kopt-kernel", "good.py")
    assert code == 1
    assert "test_other.py::test_other" in text
    assert "8 passed" in text


KERNEL = ("--kopt-task", "add", "--kopt-kernel", "good.py")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--kopt-task", "ad", "--kopt-kernel", "good.py"), "unknown task 'ad' (did you mean add?)"),
        (("--kopt-task", "add", "--kopt-kernel", "none.py"), "--kopt-kernel none.py: cannot read"),
        (("--kopt-task", "add"), "--kopt-task and --kopt-kernel go together"),
        ((*KERNEL, "--kopt-param", "X=1"), "add() has no parameter X; it has BLOCK"),
        ((*KERNEL, "--kopt-param", "X"), "write it as NAME=VALUE"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(options: tuple[str, ...], says: str, folder: Path) -> None:
    code, text = pytest_in(folder, *options)
    assert code == 4
    assert says in text
    assert "Traceback" not in text


def test_without_its_options_the_plugin_imports_nothing_of_kopt(folder: Path) -> None:
    (folder / "test_light.py").write_text(
        "import sys\n\n\ndef test_light():\n"
        "    assert [m for m in sys.modules if m.startswith('kopt')] == ['kopt', 'kopt.pytest_plugin']\n"
    )
    assert pytest_in(folder, "test_light.py")[0] == 0
