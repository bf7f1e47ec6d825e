"""A candidate that cannot be imported says why, in one line with its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt.evaluate.worker.candidate import MODULE, CandidateError, load


@pytest.fixture(autouse=True)
def _forget_the_module() -> Iterator[None]:
    yield
    sys.modules.pop(MODULE, None)


def write(folder: Path, source: str | bytes) -> Path:
    path = folder / "kernel.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def test_a_good_candidate_is_a_module_with_its_own_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "X = 1\ndef gemm(a): return a + X\n")
    module = load(path, "gemm")
    assert module.gemm(1) == 2
    assert (module.gemm.__code__.co_filename, module.gemm.__code__.co_firstlineno) == (str(path), 2)
    assert sys.modules[MODULE] is module


@pytest.mark.parametrize(
    ("source", "kind", "line", "text"),
    [
        ("x = 1\ndef gemm(:\n", "syntax", 2, "syntax error: invalid syntax (kernel.py:2)"),
        ("def gemm():\npass\n", "syntax", 2, "syntax error: expected an indented block"),
        (b"x = '\xff'\ndef gemm(): pass\n", "syntax", None, "kernel.py"),
        ("x = 1\0\n", "syntax", None, "source code string cannot contain null bytes"),
        (
            "\nimport no_such_module\n",
            "import",
            2,
            "ModuleNotFoundError: No module named 'no_such_module' (kernel.py:2)",
        ),
        ("from math import nothing\n", "import", 1, "ImportError: cannot import name 'nothing'"),
        ("def f(): return 1 / 0\n\nf()\n", "import", 1, "ZeroDivisionError: division by zero (kernel.py:1)"),
        ("exec('x = = 1')\n", "syntax", 1, "syntax error: invalid syntax (kernel.py:1)"),
        ("def other(): pass\n", "entry", None, "defines no function gemm() (kernel.py)"),
        ("gemm = 3\n", "entry", None, "defines no function gemm() (kernel.py)"),
    ],
)
def test_a_bad_candidate_is_named(tmp_path: Path, source: str | bytes, kind: str, line: int | None, text: str) -> None:
    with pytest.raises(CandidateError) as error:
        load(write(tmp_path, source), "gemm")
    assert text in str(error.value)
    assert error.value.facts["kind"] == kind
    assert line is None or error.value.facts["line"] == line


def test_leaving_and_running_out_of_memory_are_not_the_files_fault(tmp_path: Path) -> None:
    for source, kind in (("raise SystemExit(3)", SystemExit), ("raise MemoryError()", MemoryError)):
        with pytest.raises(kind):
            load(write(tmp_path, source), "gemm")
