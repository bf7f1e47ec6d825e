"""A run as one file, to be moved between machines. What comes in is checked before any of it is kept, and never run."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kopt import journal, runs
from kopt.disk import EXHAUSTED
from kopt.errors import HarnessError, KoptError, UsageError
from kopt.meta import META, read_meta
from kopt.records import digest
from kopt.run import Run

SUFFIX = ".kopt.tar.gz"

MAX_BYTES = 2 << 30
"""Unpacked; a day's run with 2,000 tool calls is some tens of megabytes."""
MAX_FILES = 100_000

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.py")


def export(folder: Path, target: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a run's archive to `target` (default: <id>.kopt.tar.gz here); the same run gives the same bytes.

    A live run is packed as far as its journal's last whole line. UsageError when the file exists.
    """
    run = Run.load(folder)
    path = target or Path(f"{run.id}{SUFFIX}")
    if path.is_dir():
        path = path / f"{run.id}{SUFFIX}"
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; name another file, or replace it with --force")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("xb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            _pack(run, packed)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise HarnessError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _pack(run: Run, packed: gzip.GzipFile) -> None:
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in _files(run):
            # Owner, mode and time say something about a person or a machine, nothing about the run.
            member = tarfile.TarInfo(f"{run.id}/{name}")
            member.size, member.mtime = len(data), int(run.meta.created)
            tar.addfile(member, io.BytesIO(data))


def _files(run: Run) -> Iterator[tuple[str, bytes]]:
    yield META, (run.folder / META).read_bytes()
    path = run.folder / journal.FILE
    if path.exists():
        data = path.read_bytes()
        yield journal.FILE, data[: data.rfind(b"\n") + 1]
    if run.meta.start:
        yield f"sources/{run.meta.start}", (run.folder / "sources" / run.meta.start).read_bytes()
    for entry in run:
        yield f"sources/{entry.submission.file}", (run.folder / "sources" / entry.submission.file).read_bytes()


def unpack(archive: Path, workspace: Path) -> Path:
    """Add an archived run to a workspace; returns its folder.

    UsageError names what is wrong with the archive: members outside their place, links, too large, a broken journal,
    sources that are not what the journal says. Nothing is left behind then.
    """
    home = runs.folder_of(workspace)
    try:
        home.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".import-", dir=home))
    except OSError as error:
        raise HarnessError(f"cannot write {home}: {error.strerror}") from error
    try:
        name = _unpack(archive, stage)
        _verify(archive, stage / name, name)
        final = home / name
        if final.exists():
            raise UsageError(f"run {name} is already in {home}")
        (stage / name).rename(final)
        return final
    except (OSError, EOFError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise HarnessError(f"{home}: cannot be written: {error.strerror}") from error
        # zlib's errors are no OSError; tarfile wraps them in its own.
        raise UsageError(f"{archive} is not a whole kopt archive: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unpack(archive: Path, stage: Path) -> str:
    """Extract into `stage`; returns the one folder that all members lie in."""
    top = ""
    count = 0
    try:
        raw: BinaryIO = archive.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {archive}: {error.strerror}") from error
    with raw, gzip.GzipFile(fileobj=raw) as packed:
        limited = _Limited(packed, archive)
        with tarfile.open(fileobj=limited, mode="r|") as tar:
            for member in tar:
                count += 1
                if count > MAX_FILES:
                    raise UsageError(f"{archive} has more than {MAX_FILES} members")
                first, inner = _place(archive, member)
                if top and first != top:
                    raise UsageError(f"{archive} holds more than one run: {top} and {first}")
                top = first
                if member.isdir():
                    continue
                path = stage / top / inner
                path.parent.mkdir(parents=True, exist_ok=True)
                data = tar.extractfile(member)
                assert data is not None, "checked to be a file"
                with path.open("xb") as out:
                    shutil.copyfileobj(data, out)
        while limited.read(1 << 16):  # up to gzip's checksum, which only the end of the stream verifies
            pass
    if not top:
        raise UsageError(f"{archive} is empty")
    return top


def _place(archive: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """Run and path within it; UsageError for whatever does not belong into a run's folder."""
    shown = ascii(member.name[:100])
    if not (member.isreg() or member.isdir()):
        raise UsageError(f"{archive}: {shown} is a link or a device; a run has files only")
    parts = PurePosixPath(member.name).parts
    inner = "/".join(parts[1:])
    fits = (
        inner in ("", "sources") if member.isdir() else
        inner in (META, journal.FILE) or (len(parts) == 3 and parts[1] == "sources" and _SOURCE.fullmatch(parts[2]))
    )  # fmt: skip
    if not parts or not _ID.fullmatch(parts[0]) or not fits:
        raise UsageError(f"{archive}: {shown} does not belong into a run")
    return parts[0], inner


def _verify(archive: Path, folder: Path, name: str) -> None:
    """The run replays, and every source is the one that was judged."""
    try:
        if name == runs.LAST:
            raise UsageError(f"it is named {name!r}, which means the newest run of all")
        if read_meta(folder).id != name:
            raise UsageError(f"its {META} names another run, {read_meta(folder).id!r}")
        run = Run.load(folder)
        run.ready()
        for entry in run:
            try:
                run.verdict(entry.n), run.measured_again(entry.n)
                for n in range(len(entry.trials)):
                    run.trial(entry.n, n + 1)
            except (ValueError, TypeError) as error:
                said = f"what is said of submission {entry.n} does not fit this version of kopt"
                raise UsageError(said) from error
            if digest(run.source(entry.n), entry.submission.parameters) != entry.submission.sha:
                raise UsageError(f"the source of submission {entry.n} is not the one that was judged")
    except (KoptError, UnicodeDecodeError) as error:
        text = str(error).replace(f"{folder.parent}{os.sep}", "")
        raise UsageError(f"{archive} is not a sound run: {text}") from error


class _Limited(io.RawIOBase):
    """A stream that ends with an error once it has unpacked more than a run can be."""

    def __init__(self, inner: gzip.GzipFile, archive: Path) -> None:
        self._inner = inner
        self._archive = archive
        self._left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(f"{self._archive} unpacks to more than {MAX_BYTES >> 30} GiB; that is no run of kopt")
        return data
