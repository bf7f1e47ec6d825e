"""What this process may use of the machine: cores and memory, with affinity and control groups respected."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """Whole cores that this process may keep busy: at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, own, "cpu"):
        quota, period = _cpu_quota(folder)
        if quota is not None:
            count = min(count, ceil(quota / period))
    return max(1, count)


def memory(
    root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup"), info: Path = Path("/proc/meminfo")
) -> int | None:
    """Bytes this process may use at most, or None where the system does not say."""
    try:
        words = next(line.split() for line in info.read_text().splitlines() if line.startswith("MemTotal:"))
        total: int | None = int(words[1]) * 1024
    except (OSError, StopIteration, IndexError, ValueError):
        total = _physical()
    for folder in _groups(root, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and (total is None or limit < total):
                total = limit
    return total


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """Folders of this process's control groups, from its own up to the root: any of them may limit."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found: list[Path] = []
    for number, names, path in (line for line in lines if len(line) == 3):
        if number == "0" and not names:  # version 2
            base = root
        elif controller in names.split(","):
            base = root / names if (root / names).exists() else root / controller
        else:
            continue
        folder = base / path.lstrip("/")
        # Inside a container the path may be the host's, which is not visible here; the base still is.
        found += [parent for parent in (folder, *folder.parents) if parent == base or base in parent.parents]
    return found


def _cpu_quota(folder: Path) -> tuple[float | None, float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
        return (None, 1.0) if quota == "max" else (float(quota), float(period))
    except (OSError, ValueError):
        pass
    old, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return (float(old), float(period_us)) if old and old > 0 and period_us else (None, 1.0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
