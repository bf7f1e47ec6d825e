"""What processes hold on disk, and a folder that can be walked and removed however they left it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_ENTRY = 128 << 10
"""Bytes that a file or folder counts at least: an empty one costs an inode, and everyone who walks it time."""
_DEPTH = 32
"""Levels below a job's folder that are kept. Deeper trees overflow the stack of what walks and removes them."""


def used(folder: str, family: Iterable[int]) -> float:
    """Bytes allocated in a folder and in the files these processes hold open, deleted too; inf when too deep."""
    sizes: dict[tuple[int, int], int] = {}
    for entry, depth in _walk(folder):
        if depth > _DEPTH:
            return float("inf")
        with suppress(OSError):
            info = entry.stat(follow_symlinks=False)
            sizes[info.st_dev, info.st_ino] = max(_ENTRY, 512 * info.st_blocks)
    for pid in family:
        with suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    info = fd.stat()
                    sizes[info.st_dev, info.st_ino] = 512 * info.st_blocks
    return sum(sizes.values())


def level(folder: str) -> None:
    """Remove each entry of a folder below which it is too deep to be walked."""
    tops = {entry.path[len(folder) :].split("/")[1] for entry, depth in _walk(folder) if depth > _DEPTH}
    for top in tops:
        remove(Path(folder, top))


def remove(folder: Path) -> None:
    """All of it that may be removed. Python's own walk goes no deeper than its stack and its descriptors; `rm` does."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        command = [shutil.which("rm") or "/bin/rm", "-rf", "--", str(folder)]
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


def _walk(folder: str) -> Iterator[tuple[os.DirEntry[str], int]]:
    """Every entry with its depth, no deeper than one level too deep."""
    stack = [(folder, 1)]
    while stack:
        path, depth = stack.pop()
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                yield entry, depth
                if depth <= _DEPTH and entry.is_dir(follow_symlinks=False):
                    stack.append((entry.path, depth + 1))
