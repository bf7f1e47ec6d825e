"""Triton caches that every process of a source starts with a copy of: copied, kept, made one's own."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from kopt.evaluate.worker import disk

CACHE = "triton"
"""Below a job's folder; what TRITON_CACHE_DIR names there."""
_GROUP = "__grp__"
_LARGEST_GROUP = 1 << 16
KEPT = 32
"""Sources at some parameters whose caches a judge keeps: those it was asked for last."""
_LARGEST = 256 << 20
"""Bytes of compiled binaries worth keeping for a source's processes."""


def adopt(cache: Path) -> None:
    """Make a copied cache one's own: Triton notes where the files of a kernel lie with their whole paths."""
    for note in cache.glob(f"*/{_GROUP}*"):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            if note.stat().st_size > _LARGEST_GROUP:
                continue
            names = json.loads(note.read_text())["child_paths"]
            paths = {str(name): str(note.parent / Path(str(name)).name) for name in names}
            note.write_text(json.dumps({"child_paths": paths}))


def copy(source: Path, target: Path) -> None:
    """The files of a Triton cache, which lie in folders one level deep. Whatever else a candidate left there stays."""
    for folder in _entries(source):
        if not folder.is_dir(follow_symlinks=False):
            continue
        for entry in _entries(Path(folder.path)):
            with suppress(OSError):
                # Not through a link, and not waiting at a pipe.
                fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(fd, "rb") as file:
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        place = target / folder.name
                        place.mkdir(parents=True, exist_ok=True)
                        (place / entry.name).write_bytes(file.read())


def hand_over(cache: Path, owner: Path) -> None:
    """Give a cache to whom a folder belongs: its runner may be another user by now."""
    if os.getuid() != 0 or not cache.is_dir():
        return
    to = owner.stat()
    for path in (cache, *cache.glob("*"), *cache.glob("*/*")):
        os.chown(path, to.st_uid, to.st_gid, follow_symlinks=False)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def keep(cache: Path, place: Path) -> None:
    """Copy a cache onto a shelf, in place of what lies there, unless it is too much."""
    if disk.used(str(cache), ()) <= _LARGEST:
        disk.remove(place)
        with suppress(OSError):  # a cold cache costs a second, never a verdict
            copy(cache, place)
