"""Cores and memory that a process may really use: affinity and both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kopt.machine import resources


def tree(base: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    listing = base / "self_cgroup"
    listing.write_text(own)
    return base, listing


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"cpu.max": "10000 100000\n"}, 1),
        ("4:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000",
                                "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {}, 64),
        ("nonsense\n", {"cpu.max": "what\n"}, 64),
        # Inside a container the group's own path is the host's; the limit is at the root that is mounted.
        ("0::/docker/0123\n", {"cpu.max": "200000 100000\n"}, 2),
    ],
)  # fmt: skip
def test_cores_respect_quotas(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    assert resources.cores(*tree(tmp_path, own, files)) == expected


def test_cores_respect_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert resources.cores(*tree(tmp_path, "0::/\n", {"cpu.max": "800000 100000"})) == 1


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a\n", {"a/memory.max": "1073741824\n"}, 1 << 30),
        ("0::/a\n", {"a/memory.max": "max\n"}, 8 << 30),
        ("7:memory:/m\n", {"memory/m/memory.limit_in_bytes": "2147483648\n"}, 2 << 30),
        ("7:memory:/m\n", {"memory/m/memory.limit_in_bytes": "9223372036854771712\n"}, 8 << 30),
        ("", {}, 8 << 30),
    ],
)
def test_memory_is_the_smallest_limit(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    assert resources.memory(*tree(tmp_path, own, files), info) == expected


def test_this_machine_has_at_least_a_core_and_some_memory() -> None:
    assert resources.cores() >= 1
    assert (resources.memory() or 0) > 1 << 20
