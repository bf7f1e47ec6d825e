"""What is read from a kernel file's text."""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kopt.errors import UsageError
from kopt.source import MAX_BYTES, SourceError, essence, parse, read

TEXT = '''"""First line.

More."""
RUNG = 3
CLASS = "tma"
TUNE: dict = {"B": [1, 2, 2], "FLAG": (True, False)}
def entry(a, /, b, *, B=1, FLAG=True, HINT=None): ...
'''


def test_the_surface_of_a_family() -> None:
    source = parse(TEXT, "entry")
    assert (source.title, source.rung, source.kind) == ("First line.", 3, "tma")
    assert source.tune == {"B": (1, 2), "FLAG": (True, False)}
    assert source.defaults == {"B": 1, "FLAG": True}
    assert source.keyword_only == ("B", "FLAG", "HINT")
    assert source.positional == 2


def test_reading_does_not_run_the_file() -> None:
    parse(TEXT + "\nraise SystemExit('ran')\n", "entry")


def test_the_last_definition_counts_as_python_would_have_it() -> None:
    assert parse(TEXT + "\ndef entry(a): ...\n".replace("(a)", "(a, *, B=1, FLAG=1)"), "entry").positional == 1


def test_gluon_is_recognised_by_its_import() -> None:
    assert parse("from triton.experimental import gluon\ndef entry(a): ...", "entry").is_gluon
    assert not parse(TEXT, "entry").is_gluon


def test_a_missing_entry_says_which() -> None:
    with pytest.raises(SourceError, match=r"no function fp8_gemm\(\)"):
        parse(TEXT, "fp8_gemm")


def test_sources_are_read_from_many_threads_at_once() -> None:
    text = (Path(__file__).parents[1] / "kernels/fp8_gemm/gluon_ws.py").read_text()
    threshold = gc.get_threshold()

    def give_way(*_: object) -> None:
        time.sleep(0)

    # Threads take turns in the middle of a tree where a collection runs Python code.
    gc.callbacks.append(give_way)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda _: parse(text, "fp8_gemm").tune, range(60)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(give_way)
    assert all(tune == read[0] for tune in read)


@pytest.mark.parametrize("value", [" + ".join(["1"] * 2500), "0x" + "f" * 5000])
def test_an_expression_too_long_to_be_shown_has_an_identity_all_the_same(value: str) -> None:
    assert essence(TEXT + f"X = {value}\n", "entry") != essence(TEXT, "entry")


def test_what_is_read_as_a_kernel_is_a_file_that_has_an_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe):
        with pytest.raises(UsageError, match=f"cannot read {path}: it is no regular file"):
            read(path)
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        read(tmp_path)


def test_a_file_is_read_up_to_the_size_that_a_kernel_may_have(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.write_bytes(b"#" * (MAX_BYTES - 2) + b"\r\n")
    assert len(read(path)) == MAX_BYTES - 1
    os.truncate(path, 1 << 40)  # takes no room on the disk, and more than there is of memory
    with pytest.raises(UsageError, match=r"large\.py is larger than 1 MiB"):
        read(path)
