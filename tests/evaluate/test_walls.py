"""Each wall holds on its own, can be left out on its own, and is named when the kernel does not offer it."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kopt.evaluate.worker import seccomp, walls
from kopt.evaluate.worker.walls import NAMES, probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711

# Numbers from the kernel's own tables, written down again: these tests must not read them from what they test.
CALLS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {"read": 0, "mmap": 9, "clone": 56, "execve": 59, "kill": 62, "prctl": 157, "socket": 41, "openat": 257,
               "tgkill": 234, "prlimit64": 302, "exit_group": 231, "futex": 202, "socketpair": 53, "symlinkat": 266},
    "aarch64": {"read": 63, "mmap": 222, "clone": 220, "execve": 221, "kill": 129, "prctl": 167, "socket": 198,
                "openat": 56, "tgkill": 131, "prlimit64": 261, "exit_group": 94, "futex": 98, "socketpair": 199,
                "symlinkat": 36},
}  # fmt: skip
THREAD = 0x3D0F00
"""The flags glibc's pthread_create gives to clone; fork's are SIGCHLD alone."""


def decide(machine: str, groups: tuple[seccomp.Group, ...], number: int, first: int = 0, arch: int = 0) -> int:
    """What the filter says to a call: classic BPF, as far as the filter uses it."""
    data = struct.pack("=iIQ6Q", number, arch or ARCH[machine], 0, first, *(5 * [0]))
    code = [struct.unpack_from("=HBBI", block) for block in chunks(seccomp.program(groups, PID, machine))]
    at = accumulator = 0
    while True:
        op, true, false, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x06:
            return int(k)
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[op]
            at += true if holds else false


def chunks(code: bytes) -> list[bytes]:
    return [code[i : i + 8] for i in range(0, len(code), 8)]


@pytest.mark.parametrize("machine", list(CALLS))
@pytest.mark.parametrize(
    ("call", "first", "verdict"),
    [
        ("read", 0, ALLOW),
        ("mmap", 0, ALLOW),
        ("openat", 0, ALLOW),
        ("futex", 0, ALLOW),
        ("exit_group", 0, ALLOW),
        ("socketpair", 1, ALLOW),
        ("clone", THREAD, ALLOW),
        ("clone", 17, EPERM),
        ("execve", 0, EPERM),
        ("symlinkat", 0, EPERM),
        ("socket", 1, EPERM),
        ("socket", 2, EPERM),
        ("kill", PID, ALLOW),
        ("kill", 1, EPERM),
        ("kill", 0, EPERM),
        ("kill", (1 << 32) - 1, EPERM),
        ("tgkill", PID, ALLOW),
        ("tgkill", PID + 1, EPERM),
        ("prlimit64", 0, ALLOW),
        ("prlimit64", PID, ALLOW),
        ("prlimit64", 1, EPERM),
        ("prctl", 15, ALLOW),  # PR_SET_NAME
        ("prctl", 1, EPERM),  # PR_SET_PDEATHSIG
        ("prctl", 36, EPERM),  # PR_SET_CHILD_SUBREAPER
    ],
)
def test_the_filter_decides(machine: str, call: str, first: int, verdict: int) -> None:
    assert decide(machine, seccomp.GROUPS, CALLS[machine][call], first) == verdict


@pytest.mark.parametrize("machine", list(CALLS))
def test_the_filter_tells_the_c_library_to_fall_back_from_clone3(machine: str) -> None:
    assert decide(machine, seccomp.GROUPS, 435) == ENOSYS


def test_other_numberings_of_calls_are_no_way_around() -> None:
    assert decide("x86_64", seccomp.GROUPS, 57, arch=0x40000003) == KILL  # i386
    assert decide("x86_64", seccomp.GROUPS, 0x40000000 | 57) == ENOSYS  # x32


@pytest.mark.parametrize("machine", list(CALLS))
def test_every_group_of_calls_can_be_left_out(machine: str) -> None:
    calls = CALLS[machine]
    rest = tuple(g for g in seccomp.GROUPS if g not in ("processes", "sockets", "signals"))
    assert decide(machine, rest, calls["clone"], 17) == ALLOW
    assert decide(machine, rest, calls["clone"], 17 | THREAD) == ALLOW
    assert decide(machine, rest, calls["clone"], 17 | 0x8000) == EPERM  # CLONE_PARENT
    assert decide(machine, rest, 435) == ENOSYS  # clone3, for which there is clone
    assert decide(machine, rest, calls["execve"]) == ALLOW
    assert decide(machine, rest, calls["prctl"], 36) == EPERM  # who may fork may not fork away
    assert decide(machine, rest, calls["kill"], 1) == ALLOW
    assert decide(machine, rest, calls["socket"], 1) == ALLOW
    assert decide(machine, rest, calls["socket"], 2) == EPERM


def test_an_unknown_processor_has_no_filter() -> None:
    with pytest.raises(OSError, match="no system call table for riscv64"):
        seccomp.program(seccomp.GROUPS, PID, "riscv64")


# Around real processes


def behind(given: str, body: str, **environment: str) -> Any:
    """Raise Walls(given) around a fresh process, run the body in it, and return what it leaves in `seen`."""
    source = (
        "import json, os, socket, subprocess, sys, threading\nfrom pathlib import Path\n"
        "from kopt.evaluate.worker import walls\nfrom kopt.evaluate.worker.walls import Walls\n"
        f"state = Walls({given}).up()\n"
        "def can(f):\n    try:\n        f()\n    except OSError:\n        return False\n    return True\n"
        f"{body}\nsys.stdout.write(json.dumps(seen))"
    )
    package = str(Path(walls.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": package, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ATTEMPTS = (
    "seen = [can(lambda: os.waitpid(os.fork() or os._exit(0), 0)), can(lambda: socket.socket()), "
    "can(lambda: Path('/etc/passwd').read_text()), can(lambda: [os.dup(0) for _ in range(600)])]"
)


def test_the_probe_names_every_wall() -> None:
    state = probe()
    assert tuple(sorted(state)) == tuple(sorted(NAMES))
    assert all(value == "up" or value.startswith("missing: ") for value in state.values())


needs_all = pytest.mark.skipif(
    sys.platform != "linux" or any(value != "up" for value in probe().values()), reason=f"this kernel: {probe()}"
)


@needs_all
def test_all_walls_stand_by_default() -> None:
    assert behind("read=walls.installed()", ATTEMPTS) == [False, False, False, False]


@needs_all
@pytest.mark.parametrize(
    ("left_out", "seen"),
    [
        ("denied=(), execute=True", [True, True, False, False]),
        ("denied=('sockets',), execute=True", [True, False, False, False]),
        ("landlock=False", [False, False, True, False]),
        ("open_files=None", [False, False, False, True]),
    ],
)
def test_a_wall_can_be_left_out(left_out: str, seen: list[bool]) -> None:
    assert behind(f"read=walls.installed(), {left_out}", ATTEMPTS) == seen


@needs_all
def test_a_process_has_few_timers() -> None:
    """Thousands of them would take processors without being charged for it, while their process is stopped, too."""
    make = (
        "import ctypes\nlibc, one = ctypes.CDLL(None), ctypes.c_void_p()\n"
        "seen = sum(libc.timer_create(1, None, ctypes.byref(one)) == 0 for _ in range(1000))"
    )
    assert behind("read=walls.installed()", make) <= 128


@needs_all
def test_programs_run_only_where_that_is_chosen() -> None:
    run = "seen = can(lambda: subprocess.run(['/usr/bin/env', 'true'], check=True))"
    given = "read=walls.installed(), denied=('kernel',), landlock=True"
    assert behind(f"{given}, execute=True", run) is True
    assert behind(given, run) is False


@needs_all
def test_only_the_given_trees_are_seen(tmp_path: Path) -> None:
    for name in ("read", "own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
    seen = behind(
        f"read=(*walls.installed(), {str(tmp_path / 'read')!r}), write=({str(tmp_path / 'own')!r},)",
        f"base = Path({str(tmp_path)!r})\n"
        "seen = {n: [can((base / n / 'file').read_text), can(lambda: (base / n / 'new').write_text('x')), "
        "can((base / n / 'file').unlink)] for n in ('read', 'own', 'other')}",
    )
    assert seen == {"read": [True, False, False], "own": [True, True, True], "other": [False, False, False]}


@needs_all
def test_no_capability_is_left() -> None:
    read = "seen = dict(l.split(None, 1) for l in open('/proc/self/status') if l.startswith(('Cap', 'NoNew')))"
    seen = {name: int(value, 16) for name, value in behind("read=walls.installed()", read).items()}
    assert seen.pop("NoNewPrivs:") == 1
    if os.geteuid() != 0:
        # Others may not shrink the bounding set, and need not: nothing they execute gains anything.
        seen.pop("CapBnd:")
    assert set(seen.values()) == {0}


@needs_all
def test_another_process_of_the_same_user_cannot_be_read() -> None:
    # By each of two walls alone: Landlock, and for root the lack of capabilities.
    body = "seen = can(lambda: Path(f'/proc/{os.getppid()}/environ').read_bytes())"
    assert behind("read=walls.installed(), denied=(), capabilities=True", body) is False
    if os.geteuid() == 0:
        assert behind("landlock=False, denied=()", body) is False
        assert behind("landlock=False, denied=(), capabilities=True", body) is True


@needs_all
def test_threads_are_behind_the_walls_too() -> None:
    body = (
        "seen = []\nt = threading.Thread(target=lambda: seen.append(can(lambda: Path('/etc/passwd').read_text())))\n"
        "t.start(); t.join()"
    )
    assert behind("read=walls.installed()", body) == [False]


@needs_all
def test_a_project_beside_a_package_is_not_readable(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    (tmp_path / "package/part.py").write_text("X = 7")
    (tmp_path / ".env").write_text("secret")
    body = f"import package.part\nseen = [package.part.X, can(lambda: Path({str(tmp_path / '.env')!r}).read_text())]"
    source = "read=(__import__('package'), walls.installed())[1]"
    package = str(Path(walls.__file__).parents[3])
    assert behind(source, body, PYTHONPATH=os.pathsep.join((str(tmp_path), package))) == [7, False]


@needs_all
def test_a_kernel_without_landlock_is_named_and_the_other_walls_stand() -> None:
    # A filter that answers landlock_create_ruleset as an older kernel would.
    body = (
        "import ctypes, struct\nfrom kopt.evaluate.worker.processes import prctl\n"
        "ops = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]\n"
        "code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *op) for op in ops))\n"
        "program = ctypes.create_string_buffer(struct.pack('=HxxxxxxQ', len(ops), ctypes.addressof(code)))\n"
        "prctl(38, 1); prctl(22, 2, ctypes.addressof(program))\n"
        "seen = Walls(read=walls.installed()).up()"
    )
    state = behind("landlock=False, denied=()", body)
    assert state.pop("landlock") == "missing: Landlock 2 is needed, the kernel has 0"
    assert set(state.values()) == {"up"}
