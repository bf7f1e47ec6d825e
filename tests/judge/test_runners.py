"""What a runner may say and leave behind: whatever it is, it is the kernel's failure and never the judge's."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kopt.evaluate.worker import channel
from kopt.evaluate.worker.disk import remove
from kopt.evaluate.worker.processes import signal_name
from kopt.judge import Judge, protocol, runners
from kopt.judge.backends.cpu import CpuJudge
from kopt.judge.bench import Bench
from kopt.judge.replay.hired import Replaying
from kopt.judge.runners import Runner, RunnerFailed, Zygote
from kopt.records import Status, Task

from .conftest import QUICK
from .kernels import PLAIN, attack, kernel

SAYING = """
import gc, struct, time

def say(body):
    runner = next(o for o in gc.get_objects() if type(o).__name__ == "Serving")
    runner._sock.sendall(struct.pack(">I", len(body)) + body)
    time.sleep(1)
"""
REPLIES = {
    "nested": b"[" * 30_000,
    "nested words": b'{"failed": "call", "error": ' + b"[" * 900 + b"]" * 900 + b"}",
    "no words": b'{"failed": 1e999, "kind": {}, "place": -1}',
    "a stage that there is not": b'{"failed": "judge.busy\\u001b[31m"}',
    "a number without end": b'{"failed": ' + b"9" * 10_000 + b"}",
    "half a pair": b'{"failed": "call", "error": "\\ud800", "place": "\\udfff"}',
    "a list": b"[]",
}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote("interpret", {})
    yield zygote
    zygote.close()


@pytest.mark.parametrize("body", REPLIES.values(), ids=REPLIES)
def test_whatever_a_runner_says_is_the_kernels_failure(judge: Judge, body: bytes) -> None:
    judge.start()
    before = judge.about["pid"]
    judgement = judge.measure(kernel(f"say({body!r})", SAYING), plan=QUICK)
    assert judgement.status is Status.CRASHED
    finding = judgement.findings[-1]
    assert finding.rule in ("judge.protocol", "judge.call")
    assert str(finding).isprintable()
    assert judge.about["pid"] == before


def test_what_is_told_of_a_confession_is_short(judge: Judge) -> None:
    body = json.dumps({"failed": "call", "error": "e" * 9000, "kind": "k" * 9000, "place": "p" * 9000}).encode()
    finding = judge.measure(kernel(f"say({body!r})", SAYING), plan=QUICK).findings[-1]
    assert finding.rule == "judge.call"
    assert len(finding.message) < 500
    assert len(finding.place) <= 40


@pytest.mark.parametrize("said", ["NaN", "Infinity", "-1.0", "0.0", "1" + "0" * 400, '"1.0"', "[]", "true"])
def test_a_replayers_events_say_a_time_or_nothing(said: str) -> None:
    replayer = Replaying.__new__(Replaying)
    replayer._sock, theirs = socket.socketpair()
    replayer._reader = channel.Reader()
    body = f'{{"elapsed_us": {said}}}'.encode()
    with replayer._sock, theirs:
        theirs.sendall(struct.pack(">I", len(body)) + body)
        with pytest.raises(RunnerFailed, match="no time that there is"):
            replayer.elapsed_us(1.0)


def test_a_runner_that_writes_too_much_is_ended(zygote: Zygote, blend: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "_DISK", 1 << 20)
    runner = Runner(zygote, "cpu")
    try:
        runner.awake(30.0)
        _, fd = CpuJudge("").share(4096)
        source = PLAIN + "\nimport time\nopen('much', 'wb').write(bytes(40 << 20))\ntime.sleep(20)\n"
        runner.hire("kernel", {"task": blend.model_dump(mode="json"), "source": source, "parameters": {},
                               "arena_bytes": 4096}, fd)  # fmt: skip
        with pytest.raises(RunnerFailed, match="to disk"):
            runner.ready(10.0)
    finally:
        runner.kill()


def test_a_runner_leaves_nothing_however_deep_it_dug(judge: Judge) -> None:
    judge.measure(attack("G4_digs_deep"), plan=QUICK)
    assert judge._folder is not None
    left = Path(judge._folder.name).glob("kopt-runner-*")
    assert not [path for path in left if (path / "d").exists()]
    assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED


@pytest.mark.parametrize("name", ["d", "d" * 250])
def test_folders_deeper_than_a_stack_are_removed(tmp_path: Path, name: str) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    remove(top)
    assert not top.exists()


def test_every_signal_has_a_name() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"


@pytest.mark.parametrize("made", [
    lambda: protocol.memory("test", 4096), lambda: protocol.orders()[1], lambda: protocol.reports()[1]
])  # fmt: skip
def test_whoever_shares_memory_cannot_seal_it(made: Callable[[], int]) -> None:
    for seal in (0x0010, fcntl.F_SEAL_WRITE):
        with pytest.raises(PermissionError):
            fcntl.fcntl(made(), fcntl.F_ADD_SEALS, seal)


def test_what_one_runner_wrote_to_shared_memory_the_next_does_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bench = Bench(CpuJudge(""), None)  # type: ignore[arg-type]
    bench.arena("kernel", 4096)[0].fill_(7)
    assert not bench.arena("kernel", 4000)[0].any()


def test_a_kernel_that_tries_to_seal_what_is_shared_harms_nobody(judge: Judge) -> None:
    assert "PermissionError" in judge.measure(attack("D12_seals_what_is_shared"), plan=QUICK).findings[-1].message
    assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED
