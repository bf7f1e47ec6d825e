"""How the command ends: crashes, closed pipes, signals, narrow encodings, and what it must not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_runs as m
import pytest
from made_runs import Made

from kopt.cli.shared import INTERRUPTED, PIPE_CLOSED

Kopt = Any
PACKAGE = str(Path(m.__file__).parents[1] / "optimizer")

HEAVY = ("torch", "triton", "optuna", "matplotlib", "cupy", "pandas", "scipy")


@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (["--help"], ("kopt.records", "numpy", "rich")),
        (["runs"], ("kopt.records", "numpy", "rich")),
        (["runs", "--json"], ("kopt.records", "numpy", "rich")),
        (["show", "last"], ("numpy",)),
        (["run", "--help"], ("kopt.records", "numpy")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_reading_imports_nothing_heavy(
    kopt_process: Kopt, workspace: Path, arguments: list[str], also: tuple[str, ...]
) -> None:
    m.write(workspace, [Made(0.2)])
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted(set({[*HEAVY, *also]!r}) & set(sys.modules)), file=sys.stderr))\n"
        "from kopt.cli.app import main; main()"
    )
    done = kopt_process(*arguments, before=(sys.executable, "-c", code))
    assert done.code == 0, done
    assert done.err == "[]\n"


CRASH = (
    "import sys; from kopt import runs\n"
    "def broken(*_): raise {what}\n"
    "runs.summaries = broken\n"
    "from kopt.cli.app import main; main()"
)


def test_what_kopt_cannot_explain_is_one_line_and_a_file(kopt_process: Kopt, tmp_path: Path) -> None:
    before = (sys.executable, "-c", CRASH.format(what="ZeroDivisionError('first line\\nsecond')"))
    done = kopt_process("runs", before=before, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert done.code == 4
    assert len(done.err.splitlines()) == 1
    log = next((tmp_path / "state" / "kopt").glob("crash-*.log"))
    assert f"kopt broke: ZeroDivisionError: first line; what happened is in {log}" in done.err
    text = log.read_text()
    assert "Traceback" in text
    assert "in broken" in text


def test_debug_shows_the_traceback(kopt_process: Kopt) -> None:
    before = (sys.executable, "-c", CRASH.format(what="ZeroDivisionError('x')"))
    assert "Traceback" in kopt_process("--debug", "runs", before=before).err
    assert "Traceback" in kopt_process("runs", before=before, env={"KOPT_DEBUG": "1"}).err


def test_a_crash_without_a_home_to_write_to_is_still_one_line(kopt_process: Kopt) -> None:
    before = (sys.executable, "-c", CRASH.format(what="MemoryError()"))
    done = kopt_process("runs", before=before, env={"XDG_STATE_HOME": "/dev/null/x", "TMPDIR": "/dev/null/y"})
    assert done.code == 4
    assert "Traceback" not in done.err


def test_ctrl_c_ends_quietly(kopt_process: Kopt) -> None:
    before = (sys.executable, "-c", CRASH.format(what="KeyboardInterrupt()"))
    done = kopt_process("runs", before=before)
    assert done.code == INTERRUPTED
    assert done.err == ""


@pytest.mark.parametrize("arguments", [["show", "big", "--all"], ["show", "big", "--json"], ["runs", "--json"]])
def test_a_reader_that_leaves_is_no_error(workspace: Path, arguments: list[str]) -> None:
    m.write(workspace, m.climb(60, 1), id="big")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from kopt.cli.app import main; main()", *arguments],
        cwd=workspace, env={**os.environ, "PYTHONPATH": PACKAGE}, stdout=writing, stderr=subprocess.PIPE, timeout=100,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == PIPE_CLOSED


def test_without_a_terminal_there_is_no_colour_and_no_escape(kopt_process: Kopt, workspace: Path) -> None:
    m.write(workspace, [Made(0.2, note="\x1b[31mred \u202e [b]x[/b]")], id="odd")
    for arguments in (["runs"], ["show", "odd"], ["show", "odd/1"]):
        done = kopt_process(*arguments)
        assert done.code == 0, done
        assert "\x1b" not in done.out
        assert "\u202e" not in done.out
    assert "␛[31mred <U+202E> [b]x[/b]" in kopt_process("show", "odd/1").out


def test_a_terminal_that_knows_ascii_only_gets_escapes_and_no_crash(kopt_process: Kopt, workspace: Path) -> None:
    m.write(workspace, [Made(0.2, note="更深的流水线 مرحبا")], id="cjk")
    done = kopt_process("show", "cjk/1", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    assert done.code == 0, done.err
    assert "\\u66f4" in done.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_run_that_may_not_be_read_is_one_line(kopt_process: Kopt, workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.2)], id="locked")
    (folder / "journal.jsonl").chmod(0)
    done = kopt_process("show", "locked")
    assert done.code == 4
    assert "Permission denied" in done.err
    assert "Traceback" not in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")
@pytest.mark.parametrize(
    ("kib", "says"),
    [
        (0, "(TMPDIR): cannot be written: No usable temporary directory"),
        (4, "/compiled: a kernel cannot be compiled there: File too large"),
        (40, "File too large"),
    ],
)
def test_where_files_may_not_grow_kopt_breaks_and_no_kernel_fails(
    kopt_process: Kopt, tmp_path: Path, kib: int, says: str
) -> None:
    """As on a full disk. Of a size in between it is ptxas that dies, and says no more than that."""
    kernel = Path(PACKAGE).parent / "kernels" / "fp8_gemm" / "tma.py"
    before = ("sh", "-c", f'ulimit -f {2 * kib}; exec "$@"', "sh", sys.executable, "-m", "kopt")
    done = kopt_process("check", "fp8_gemm", str(kernel), before=before, env={"TMPDIR": str(tmp_path)})
    assert done.code == 4, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert str(tmp_path) in done.err
    assert says in done.err


def test_an_interrupt_while_the_command_is_still_being_loaded_ends_it_in_silence(kopt_process: Kopt) -> None:
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'kopt.cli.shared': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from kopt.__main__ import main; main()"
    )
    done = kopt_process("runs", before=(sys.executable, "-c", code))
    assert (done.code, done.out, done.err) == (INTERRUPTED, "", "")
