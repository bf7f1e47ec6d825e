"""The append-only log: what a crash, a full disk or a second writer can and cannot do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kopt.errors import HarnessError, UsageError
from kopt.journal import Journal, read, read_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.jsonl"


@pytest.fixture(autouse=True)
def folder(path: Path) -> None:
    path.parent.mkdir()


def test_events_come_back_in_order_with_their_payload(path: Path) -> None:
    with Journal(path) as log:
        log.append("lesson", text="größer")
        log.append("lesson", text="line\nbreak")
    events = list(read(path))
    assert [(e.seq, e.type, e.payload) for e in events] == [
        (1, "lesson", {"text": "größer"}),
        (2, "lesson", {"text": "line\nbreak"}),
    ]


def test_an_event_can_be_read_again_from_its_place(path: Path) -> None:
    with Journal(path) as log:
        log.append("lesson", text="one")
        event = log.append("lesson", text="two")
    assert read_at(path, event.offset, event.size)["text"] == "two"


def test_a_second_writer_is_refused_by_name(path: Path) -> None:
    with Journal(path), pytest.raises(UsageError, match="run is being written by another process"):
        Journal(path)


@pytest.mark.parametrize("torn", [b"{", b'{"seq":2,"time":0,"elap', b'{"seq":2,"time":0,"elapsed":0,"type":"lesson"}'])
def test_a_torn_last_line_is_dropped_and_the_next_event_follows_the_last_whole_one(path: Path, torn: bytes) -> None:
    with Journal(path) as log:
        log.append("lesson", text="kept")
    path.write_bytes(path.read_bytes() + torn)
    assert [e.payload["text"] for e in read(path)] == ["kept"]
    with Journal(path) as log:
        log.append("lesson", text="after")
    assert [(e.seq, e.payload["text"]) for e in read(path)] == [(1, "kept"), (2, "after")]


def test_a_corrupt_line_in_the_middle_is_refused_with_its_number_and_nothing_is_changed(path: Path) -> None:
    with Journal(path) as log:
        for text in "abc":
            log.append("lesson", text=text)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{nonsense\n" + lines[2])
    before = path.read_bytes()
    with pytest.raises(HarnessError, match="line 2"):
        list(read(path))
    with pytest.raises(HarnessError, match="line 2"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_missing_line_is_noticed(path: Path) -> None:
    with Journal(path) as log:
        for text in "abc":
            log.append("lesson", text=text)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(HarnessError, match="line 2 carries seq 3"):
        list(read(path))


def test_a_full_disk_loses_only_the_line_that_did_not_fit(path: Path) -> None:
    # RLIMIT_FSIZE stands in for the full disk: the kernel refuses the write in the same way, half way through a line.
    script = f"""
import resource, signal
from pathlib import Path
from kopt.errors import HarnessError
from kopt.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Journal(Path({str(path)!r}))
log.append("lesson", text="fits")
size = Path({str(path)!r}).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
try:
    log.append("lesson", text="x" * 1000)
except HarnessError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append("lesson", text="freed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert [e.payload["text"] for e in read(path)] == ["fits", "freed"]


def test_a_line_that_an_interrupt_left_in_doubt_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    with Journal(path) as log:
        log.append("lesson", text="before")
        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append("lesson", text="in doubt")
        monkeypatch.undo()
        log.append("lesson", text="after")
    assert [(e.seq, e.payload["text"]) for e in read(path)] == [(1, "before"), (2, "after")]


def test_what_append_returned_survives_sigkill(path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from kopt.journal import Journal
log = Journal(Path({str(path)!r}))
for i in range(50):
    log.append("lesson", text=str(i))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(read(path))) == 50


def test_active_time_goes_on_where_the_last_process_ended(path: Path) -> None:
    with Journal(path) as log:
        log.append("lesson", text="a")
    text = path.read_text().replace('"elapsed":0.', '"elapsed":100.')
    path.write_text(text)
    with Journal(path) as log:
        assert log.append("lesson", text="b").elapsed >= 100


def test_a_read_only_folder_is_one_clear_line(path: Path) -> None:
    if os.geteuid() == 0:
        path.mkdir()  # root writes anywhere; a folder in the journal's place cannot be written either
    else:
        path.parent.chmod(0o500)
    with pytest.raises(HarnessError, match=r"cannot write .*journal\.jsonl"):
        Journal(path)


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    with Journal(path) as log:
        for value in (deep, [deep] * 2, object()):
            with pytest.raises(HarnessError, match="a lesson event cannot be written"):
                log.append("lesson", text=value)
        log.append("lesson", text="after")
    assert [(e.seq, e.payload["text"]) for e in read(path)] == [(1, "after")]


@pytest.mark.parametrize("elapsed", [b'"soon"', b"NaN", b"1e300", b"null"])
def test_a_time_that_is_none_is_refused_with_its_line(path: Path, elapsed: bytes) -> None:
    path.write_bytes(b'{"seq":1,"time":0,"elapsed":' + elapsed + b',"type":"lesson","text":"a"}\n')
    with pytest.raises(HarnessError, match="line 1 is not a journal event"):
        list(read(path))
