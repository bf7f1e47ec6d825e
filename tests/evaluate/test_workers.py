"""Jobs beside untrusted code end in time, say what became of them, and leave nothing behind. Real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kopt.errors import HarnessError, MachineError
from kopt.evaluate.server import heard
from kopt.evaluate.worker import disk, processes
from kopt.evaluate.workers import Reply, Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

HERE = str(Path(__file__).parent)
SECRET = "KOPT_TEST_API_KEY"


def environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), HERE)))}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    os.environ[SECRET] = "hunter2"
    with Workers(environment()) as workers:
        yield workers
    del os.environ[SECRET]


Candidate = Callable[..., Reply]


@pytest.fixture
def candidate(workers: Workers, tmp_path: Path) -> Candidate:
    def run(source: str, deadline: float = 20.0, **limits: Any) -> Reply:
        (tmp_path / "kernel.py").write_text(source)
        return workers.run("compile", "worker_jobs:candidate", {}, folder=tmp_path, deadline=deadline, **limits)

    return run


def entry(body: str) -> str:
    """A kernel file whose entry has this body."""
    return "import os, sys, time\ndef entry():\n" + "".join(f"    {line}\n" for line in body.splitlines())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


PATIENCE = 120.0
"""Seconds for what takes none on an idle machine."""


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


# What a reply says


def test_a_job_returns_its_value(workers: Workers, tmp_path: Path) -> None:
    reply = workers.run("compile", "worker_jobs:echo", {"a": [1, "ß"]}, folder=tmp_path, deadline=10)
    assert (reply.outcome, reply.value, reply.error) == ("ok", {"a": [1, "ß"]}, "")


def test_an_exception_is_an_error_with_its_place(candidate: Candidate) -> None:
    reply = candidate(entry("x = 1\nraise ValueError('one\\ntwo')"))
    assert reply.outcome == "error"
    assert reply.error == "ValueError: one two (kernel.py:4)"
    assert "child.py" not in reply.traceback


def test_an_exception_that_cannot_be_shown_is_still_an_error(candidate: Candidate) -> None:
    source = "class Bad(Exception):\n    def __str__(self): raise SystemExit(0)\ndef entry(): raise Bad()"
    reply = candidate(source)
    assert (reply.outcome, reply.error) == ("error", "Bad: (its text cannot be read) (kernel.py:3)")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("os._exit(0)", "exited with status 0 before it replied"),
        ("sys.exit(0)", "called sys.exit(0) (kernel.py:3)"),
        ("os.closerange(0, 1000)", "exited with status 1 before it replied"),
        ("os.kill(os.getpid(), 9)", "died of SIGKILL before it replied"),
        ("import ctypes\nctypes.string_at(0)", "died of SIGSEGV before it replied"),
    ],
)
def test_a_job_that_ends_without_its_reply_has_crashed(candidate: Candidate, body: str, error: str) -> None:
    reply = candidate(entry(body))
    assert (reply.outcome, reply.value, reply.error) == ("crashed", {}, error)


def test_a_segmentation_fault_says_where_it_was(candidate: Candidate) -> None:
    assert 'kernel.py", line 4 in entry' in candidate(entry("import ctypes\nctypes.string_at(0)")).output


def test_a_job_may_close_its_stdout(candidate: Candidate) -> None:
    assert candidate(entry("sys.stdout.close()\nos.close(1)\nos.close(2)\nreturn 7")).value == {"returned": 7}


def test_stdin_is_empty(candidate: Candidate) -> None:
    assert candidate(entry("return sys.stdin.read()")).value == {"returned": ""}


# Limits


@pytest.mark.parametrize("source", ["while True: pass", entry("while True: pass"), entry("time.sleep(600)")])
def test_an_endless_job_is_killed_in_time(candidate: Candidate, source: str) -> None:
    reply = candidate(source, deadline=0.5)
    assert (reply.outcome, reply.error) == ("timeout", "still running after 0.5 s")


def test_a_job_cannot_ignore_its_deadline(candidate: Candidate) -> None:
    body = (
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
    )
    assert candidate(entry(body + "while True: pass"), deadline=0.5).outcome == "timeout"


@pytest.mark.parametrize("body", ["import torch\ntorch.empty(100 << 30, dtype=torch.uint8)", "bytearray(100 << 30)"])
def test_an_allocation_of_100_gb_is_refused(candidate: Candidate, body: str) -> None:
    assert candidate(entry(body)).outcome == "memory"


def test_memory_that_is_used_is_limited(candidate: Candidate) -> None:
    reply = candidate(entry("hoard = []\nwhile True: hoard.append(bytearray(1 << 20))"), memory=256 << 20)
    assert (reply.outcome, reply.error) == ("memory", "took more than 256 MiB of memory")


def test_memory_that_is_only_reserved_is_free(candidate: Candidate) -> None:
    assert candidate(entry("import torch\nreturn torch.empty(8 << 30, dtype=torch.uint8).numel()")).ok


def test_printing_without_end_keeps_the_last_words(candidate: Candidate, tmp_path: Path) -> None:
    body = "for _ in range(1024): os.write(1, b'x' * (1 << 20))\nprint('the last words')"
    reply = candidate(entry(body), deadline=60)
    assert reply.ok
    assert reply.output.endswith("xthe last words\n")
    assert len(reply.output) == 16 << 10
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.py"]


def test_the_disk_is_not_filled(candidate: Candidate) -> None:
    # Slowly enough for the watch to come by before descriptors run out.
    body = (
        "for i in range(100000):\n    time.sleep(0.01)\n"
        "    f = open(f'f{i % 8}', 'wb'); f.write(bytes(1 << 20)); f.flush()\n"
        "    os.unlink(f'f{i % 8}') if i % 2 else None\n    hold = globals().setdefault('hold', []); hold.append(f)"
    )
    reply = candidate(entry(body), disk=64 << 20)
    assert (reply.outcome, reply.error) == ("crashed", "wrote more than 64 MiB to disk, or folders too deep to walk")


def test_a_folder_too_deep_to_walk_is_levelled(candidate: Candidate, tmp_path: Path) -> None:
    reply = candidate(entry("for _ in range(3000):\n    os.mkdir('d'); os.chdir('d')"))
    assert (reply.outcome, reply.error) == ("crashed", "wrote more than 2048 MiB to disk, or folders too deep to walk")
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.py"]


# Replies that are none


def test_a_huge_reply_is_refused_by_name(workers: Workers, tmp_path: Path) -> None:
    reply = workers.run("compile", "worker_jobs:huge", {"bytes": 40 << 20}, folder=tmp_path, deadline=20)
    assert reply.outcome == "error"
    assert "above the limit" in reply.error


def test_a_reply_that_json_cannot_say_is_an_error(workers: Workers, tmp_path: Path) -> None:
    reply = workers.run("compile", "worker_jobs:unspeakable", {}, folder=tmp_path, deadline=10)
    assert reply.error == "the job's reply cannot be sent: Object of type object is not JSON serializable"


@pytest.mark.parametrize(
    "forged",
    [
        b"not a frame at all",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\xea\x60" + b"[" * 60000,
        b"\x00\x00\x00\x1b" + b'{"outcome":"ok","value":{}}',
    ],
)
def test_a_forged_reply_has_crashed(candidate: Candidate, forged: bytes) -> None:
    body = (
        "import stat\nfor fd in range(3, 100):\n    try:\n"
        f"        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, {forged!r})\n    except OSError: pass\n"
        "time.sleep(60)"
    )
    reply = candidate(entry(body))
    assert reply.outcome == "crashed"
    assert reply.error.startswith("unreadable reply: ")


def test_text_that_no_file_can_hold_is_replaced(candidate: Candidate) -> None:
    reply = candidate(entry("raise ValueError('\\ud800 \\x1b[2J')"))
    assert reply.error.encode().startswith(b"ValueError: ? [2J")


def test_a_job_of_ours_that_does_not_exist_is_a_broken_harness(workers: Workers, tmp_path: Path) -> None:
    for job in ("worker_jobs:nothing", "no_such_module:run"):
        with pytest.raises(HarnessError, match=f"cannot start {job}: "):
            workers.run("compile", job, {}, folder=tmp_path, deadline=10)


# Questions


def test_a_question_is_answered_while_the_job_runs(workers: Workers, tmp_path: Path) -> None:
    reply = workers.run(
        "compile",
        "worker_jobs:questions",
        {"times": 3, "question": {"n": 20}},
        folder=tmp_path,
        deadline=10,
        on_ask=lambda question: {"n": question["n"] + 1},
    )
    assert reply.value == {"n": 21}


def test_an_answer_may_come_from_another_job(workers: Workers, tmp_path: Path) -> None:
    def serve(question: dict[str, Any]) -> dict[str, Any]:
        return workers.run("compile", "worker_jobs:echo", question, folder=tmp_path, deadline=10, trusted=True).value

    request = {"times": 2, "question": {"n": 20}}
    reply = workers.run("interpret", "worker_jobs:questions", request, folder=tmp_path, deadline=10, on_ask=serve)
    assert reply.value == {"n": 20}


def test_the_clock_stands_still_during_an_answer(workers: Workers, tmp_path: Path) -> None:
    def slow(question: dict[str, Any]) -> dict[str, Any]:
        time.sleep(4.0)
        return {}

    request = {"times": 1, "question": {}}
    reply = workers.run("compile", "worker_jobs:questions", request, folder=tmp_path, deadline=3.0, on_ask=slow)
    assert reply.ok
    assert reply.seconds < 3.0


def test_questions_without_end_have_a_deadline(workers: Workers, tmp_path: Path) -> None:
    def slow(question: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        return {}

    reply = workers.run(
        "compile",
        "worker_jobs:questions",
        {"times": 10**6, "question": {}},
        folder=tmp_path,
        deadline=30,
        on_ask=slow,
        ask_deadline=0.5,
    )
    assert (reply.outcome, reply.error) == ("timeout", "its questions took more than 0.5 s to answer")


def test_what_an_answer_raises_ends_the_job(workers: Workers, tmp_path: Path) -> None:
    def broken(question: dict[str, Any]) -> dict[str, Any]:
        raise HarnessError("no compiler")

    server_of(workers, tmp_path)  # which is there before, whichever test comes first
    before = processes.family(os.getpid())
    with pytest.raises(HarnessError, match="no compiler"):
        workers.run(
            "compile",
            "worker_jobs:questions",
            {"times": 1, "question": {}},
            folder=tmp_path,
            deadline=10,
            on_ask=broken,
        )
    assert set(processes.family(os.getpid())) <= set(before)


def test_a_question_that_nobody_answers_is_an_error(workers: Workers, tmp_path: Path) -> None:
    reply = workers.run("compile", "worker_jobs:unanswered", {}, folder=tmp_path, deadline=10)
    assert reply.error == "Refused: nobody answers questions in this job"


# Walls


@pytest.mark.parametrize(
    "body",
    [
        "while True: os.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "import socket\nsocket.socket()",
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.setsid()",
        "open('/tmp/kopt-escaped', 'w')",
        "open(__file__.replace('kernel.py', '../escaped'), 'w')",
        "open('/etc/passwd').read()",
        "os.listdir('/')",
        "os.listdir(os.path.expanduser('~root'))",
        "open(f'/proc/{os.getppid()}/environ').read()",
        "os.symlink('/etc/passwd', 'link')",
        "os.mkfifo('pipe')",
        "os.chmod('kernel.py', 0o777)",
        "os.memfd_create('hidden')",
        "import signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    ],
)
def test_a_candidate_is_refused(workers: Workers, candidate: Candidate, body: str) -> None:
    if missing := {k: v for k, v in workers.walls().items() if v != "up"}:
        pytest.skip(f"this kernel lacks {missing}")
    reply = candidate(entry(body))
    assert reply.outcome == "error"
    assert reply.error.startswith(("PermissionError", "ValueError: not allowed to raise maximum limit"))


def test_the_drivers_environment_is_out_of_reach(workers: Workers, candidate: Candidate) -> None:
    body = (
        f"seen = dict(os.environ)\nfor pid in ['self', {os.getpid()}, os.getppid()]:\n"
        "    try: seen[pid] = open(f'/proc/{pid}/environ').read()\n    except OSError: pass\nreturn seen"
    )
    seen = candidate(entry(body)).value["returned"]
    assert SECRET not in json.dumps(seen)
    assert "hunter2" not in json.dumps(seen)
    assert "PATH" in seen
    assert str(os.getpid()) not in seen


def test_walls_leave_threads_and_the_folder(candidate: Candidate, tmp_path: Path) -> None:
    body = (
        "import threading, tempfile\nwrite = lambda: open('out', 'w').write('7')\n"
        "t = threading.Thread(target=write); t.start(); t.join()\n"
        "os.makedirs('a/b'); os.replace('out', 'a/b/out')\nwith tempfile.TemporaryFile() as f: f.write(b'x')\n"
        "open('/dev/null', 'w').write('x')\nreturn open('a/b/out').read()"
    )
    reply = candidate(entry(body))
    assert reply.value == {"returned": "7"}, reply.error
    assert (tmp_path / "a/b/out").read_text() == "7"


INTERPRETED = """
import torch, triton, triton.language as tl

@triton.jit
def double(x, y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)

def entry():
    x = torch.arange(100.0); y = torch.empty(100)
    double[(4,)](x, y, 100, B=32)
    torch.save(y, "y.pt")
    return y.sum().item()
"""


def test_a_kernel_is_interpreted_behind_walls(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(INTERPRETED)
    reply = workers.run("interpret", "worker_jobs:candidate", {}, folder=tmp_path, deadline=30)
    assert reply.value == {"returned": 9900.0}, reply.traceback
    assert (tmp_path / "y.pt").exists()


# Nothing survives


@pytest.mark.parametrize("spin", [False, True])
def test_orphans_in_their_own_sessions_do_not_survive(workers: Workers, tmp_path: Path, spin: bool) -> None:
    request = {"count": 20, "spin": spin}
    deadline = 4 if spin else PATIENCE
    reply = workers.run("compile", "worker_jobs:scatter", request, folder=tmp_path, deadline=deadline, trusted=True)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert reply.outcome == ("timeout" if spin else "ok")
    assert pids if spin else len(pids) in (20, 40)  # a job whose server dies is run once more
    assert not any(alive(pid) for pid in pids)


def test_other_jobs_survive_the_burial_of_one(workers: Workers, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        other = tmp_path / "other"
        other.mkdir()
        request = {"count": 5, "spin": False}
        nap = pool.submit(workers.run, "compile", "worker_jobs:nap", {"seconds": 1.0}, folder=other, deadline=10)
        for _ in range(2):
            workers.run("compile", "worker_jobs:scatter", request, folder=tmp_path, deadline=60, trusted=True)
            (tmp_path / "pids").unlink()
        assert nap.result().ok


def test_jobs_run_side_by_side(workers: Workers, tmp_path: Path) -> None:
    # Each waits for all the others: one after the other, none would ever end.
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(
                workers.run, kind, "worker_jobs:meet", {"name": str(number), "count": 8}, folder=tmp_path, deadline=60
            )
            for number, kind in enumerate(("compile", "interpret") * 4)
        ]
        assert all(job.result().ok for job in jobs)


def server_of(workers: Workers, folder: Path) -> int:
    """The process id of the compile server."""
    pid: int = workers.run("compile", "worker_jobs:parent", {}, folder=folder, deadline=10).value["pid"]
    return pid


def when_begun(folder: Path, do: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not (folder / "begun").exists():
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_job_is_run_again_when_its_server_dies(workers: Workers, tmp_path: Path) -> None:
    server = server_of(workers, tmp_path)
    killer = when_begun(tmp_path, lambda: os.kill(server, signal.SIGKILL))
    reply = workers.run("compile", "worker_jobs:nap_once", {"seconds": 60}, folder=tmp_path, deadline=60)
    killer.join()
    assert reply.value == {"again": True}
    assert gone([int((tmp_path / "begun").read_text())])


def test_a_kill_that_crosses_with_the_end_of_its_job_is_no_death_of_the_server() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.send(b'{"status": 0}')
        ours.send(b"kill")
        theirs.close()
        assert heard(ours) == b'{"status": 0}'
        assert heard(ours) == b""


def test_a_server_that_dies_twice_is_a_broken_harness(workers: Workers, tmp_path: Path) -> None:
    # What kills it here is our own job: trusted, without walls.
    (tmp_path / "kernel.py").write_text(entry("os.kill(os.getppid(), 9)\ntime.sleep(60)"))
    with pytest.raises(HarnessError, match="died twice while it ran worker_jobs:candidate: killed by signal 9"):
        workers.run("compile", "worker_jobs:candidate", {}, folder=tmp_path, deadline=20, trusted=True)


DRIVER = """
import sys, threading
from pathlib import Path
from kopt.evaluate.workers import Workers
workers = Workers()
folder = Path(sys.argv[1])
workers.run("compile", "worker_jobs:scatter", {"count": 3, "spin": True}, folder=folder, deadline=600, trusted=True)
"""


def grandchildren(pid: int) -> list[int]:
    return [job for server in processes.children(pid) for job in processes.children(server)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_survives_the_driver(tmp_path: Path, how: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={**os.environ, **environment()},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len((tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ()) < 3:
        time.sleep(0.05)
        assert driver.poll() is None
    orphans = {int(pid) for pid in (tmp_path / "pids").read_text().split()}
    # The parent of an orphan may still be dying, and /proc shows it in neither family for a moment.
    end = time.monotonic() + PATIENCE
    # Not of their job's fork server alone: what a job uses, its orphans included, is counted as its own.
    while not any(orphans <= set(processes.family(job)) for job in grandchildren(driver.pid)):
        assert time.monotonic() < end, f"{orphans} are not in one family"
        time.sleep(0.05)
    while not orphans <= set(family := processes.family(driver.pid)):
        assert time.monotonic() < end, f"{orphans} are not among {family}"
        time.sleep(0.05)
    os.killpg(driver.pid, how)
    driver.wait(PATIENCE)
    assert gone([pid for pid in family if pid != driver.pid])


def test_the_terminals_interrupt_does_not_reach_the_servers(workers: Workers, tmp_path: Path) -> None:
    assert os.getsid(server_of(workers, tmp_path)) != os.getsid(0)


def test_closing_ends_jobs_in_flight(tmp_path: Path) -> None:
    workers = Workers(environment())
    closer = when_begun(tmp_path, workers.close)
    with pytest.raises(HarnessError, match="the workers are closed"):
        workers.run("compile", "worker_jobs:nap", {"seconds": 600}, folder=tmp_path, deadline=600)
    closer.join()
    assert gone([int((tmp_path / "begun").read_text())])


def test_many_jobs_leak_no_descriptors(workers: Workers, tmp_path: Path) -> None:
    def open_files(server: int) -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path(f"/proc/{server}/fd").iterdir()))

    before = open_files(server_of(workers, tmp_path))
    for i in range(60):
        request = {"bytes": (40 << 20) if i == 30 else 10}
        workers.run("compile", "worker_jobs:huge", request, folder=tmp_path, deadline=10 if i % 3 else 0)
    server = server_of(workers, tmp_path)  # another one, should the machine have been too busy for the first
    # The server closes its end a moment after it has told the driver. What an earlier test had open may have gone.
    end = time.monotonic() + PATIENCE
    while any(map(int.__gt__, now := open_files(server), before)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(int.__gt__, now, before))


# The machine


def test_a_missing_torch_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    with Workers({"PYTHONPATH": str(tmp_path)}) as workers, pytest.raises(MachineError) as error:
        workers.toolchain()
    assert str(error.value) == (
        f"evaluation needs torch and triton in {sys.prefix}: ModuleNotFoundError: No module named 'torch'"
    )


def test_other_systems_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MachineError, match="evaluation needs Linux"):
        Workers()


def test_the_toolchain_is_that_of_the_workers(workers: Workers) -> None:
    import importlib.metadata

    toolchain = workers.toolchain()
    assert toolchain.torch.startswith(importlib.metadata.version("torch").split("+")[0])
    assert toolchain.ptxas


def test_the_driver_knows_the_toolchain_without_importing_it() -> None:
    script = """
import sys
from kopt.evaluate.workers import Workers
with Workers() as workers:
    assert workers.toolchain().torch
print("torch" in sys.modules or "triton" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_empty_files_count_for_what_it_takes_to_walk_them(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / str(i)).touch()
    assert disk.used(str(tmp_path), ()) >= 100 * (128 << 10)
