"""A run as one file: whole and the same on the other side; whatever else is in an archive is refused by name."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made

from kopt import archive
from kopt.errors import HarnessError, UsageError
from kopt.journal import FILE

Files = dict[str, bytes]


@pytest.fixture
def packed(workspace: Path, tmp_path: Path) -> Path:
    return archive.export(m.write(workspace, m.climb(6, 1)), tmp_path / "run.kopt.tar.gz")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def contents(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def files_of(path: Path) -> Files:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def repack(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def refused(path: Path, other: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        archive.unpack(path, other)
    assert "\n" not in str(caught.value)
    assert contents(other) == {}, "something was left behind"
    assert not list((other / "submissions").iterdir())


def test_a_run_arrives_as_it_left(workspace: Path, packed: Path, other: Path) -> None:
    folder = archive.unpack(packed, other)
    assert contents(folder) == contents(workspace / "submissions" / folder.name)


def test_the_same_run_gives_the_same_archive_without_owner_or_host(
    workspace: Path, packed: Path, tmp_path: Path
) -> None:
    again = archive.export(next((workspace / "submissions").iterdir()), tmp_path / "again")
    assert again.read_bytes() == packed.read_bytes()
    with tarfile.open(packed) as tar:
        assert {(x.uid, x.gid, x.uname, x.gname) for x in tar} == {(0, 0, "", "")}


def test_a_torn_last_line_stays_behind(workspace: Path, tmp_path: Path, other: Path) -> None:
    folder = m.write(workspace, [Made(0.1)], id="torn", stop=None)
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole + b'{"seq"')
    back = archive.unpack(archive.export(folder, tmp_path / "torn.tgz"), other)
    assert (back / FILE).read_bytes() == whole


def test_the_kernel_that_a_run_started_from_travels_along(workspace: Path, tmp_path: Path, other: Path) -> None:
    folder = m.write(workspace, [Made(0.1)], start="start.py")
    (folder / "sources" / "start.py").write_text("x = 1\n")
    back = archive.unpack(archive.export(folder, tmp_path / "x.tgz"), other)
    assert (back / "sources" / "start.py").read_text() == "x = 1\n"


def test_an_existing_file_or_run_is_not_overwritten(workspace: Path, packed: Path, other: Path) -> None:
    folder = next((workspace / "submissions").iterdir())
    with pytest.raises(UsageError, match="--force"):
        archive.export(folder, packed)
    archive.export(folder, packed, overwrite=True)
    archive.unpack(packed, other)
    before = contents(other)
    with pytest.raises(UsageError, match="is already in"):
        archive.unpack(packed, other)
    assert contents(other) == before


@pytest.mark.parametrize(
    "name",
    ["../evil", "{id}/../../evil", "/etc/passwd", "{id}/sources/../../../x.py", "{id}/sources/.hidden.py",
     "{id}/sources/a/b.py", "{id}/control.sock", "{id}/extra", "{id}/sources/x.sh", ".hidden/run.json", "a b/run.json"],
)  # fmt: skip
def test_members_outside_their_place_are_refused(packed: Path, other: Path, name: str) -> None:
    files = files_of(packed)
    id = next(iter(files)).split("/")[0]
    refused(repack(packed, {**files, name.format(id=id): b"x"}), other, "does not belong into a run")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(packed: Path, other: Path, kind: bytes) -> None:
    id = next(iter(files_of(packed))).split("/")[0]
    with tarfile.open(packed, "w:gz") as tar:
        member = tarfile.TarInfo(f"{id}/run.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    refused(packed, other, "is a link or a device")


def _flip_source(files: Files) -> None:
    name = next(name for name in files if name.endswith(".py"))
    files[name] += b"# changed\n"


def _break_journal(files: Files) -> None:
    name = next(name for name in files if name.endswith(FILE))
    lines = files[name].splitlines(keepends=True)
    files[name] = b"".join([*lines[:2], *lines[3:]])


def _drop(suffix: str) -> Callable[[Files], None]:
    def drop(files: Files) -> None:
        del files[next(name for name in files if name.endswith(suffix))]

    return drop


def _rename(files: Files) -> None:
    for name in list(files):
        files["renamed/" + name.partition("/")[2]] = files.pop(name)


def _second(files: Files) -> None:
    files["second/run.json"] = b"{}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_flip_source, "the source of submission 1 is not the one that was judged"),
        (_break_journal, r"journal.jsonl: line 3 carries seq 4"),
        (_drop("run.json"), "has no run.json"),
        (_drop(".py"), "cannot read .*sources"),
        (_rename, "names another run"),
        (_second, "more than one run"),
        (dict.clear, "is empty"),
    ],
)
def test_a_run_that_is_not_sound_is_refused(
    packed: Path, other: Path, change: Callable[[Files], None], words: str
) -> None:
    files = files_of(packed)
    change(files)
    refused(repack(packed, files), other, words)


def test_a_bomb_is_refused_before_it_fills_the_disk(packed: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    id = next(iter(files_of(packed))).split("/")[0]
    repack(packed, {f"{id}/sources/big.py": bytes(8 << 20)})
    assert packed.stat().st_size < 1 << 20
    refused(packed, other, "unpacks to more than")


def test_too_many_members_are_refused(packed: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    refused(packed, other, "more than 3 members")


@pytest.mark.parametrize("data", [b"", b"not an archive", gzip.compress(b"not a tar" * 200, mtime=0)])
def test_what_is_no_archive_is_refused(packed: Path, other: Path, data: bytes) -> None:
    packed.write_bytes(data)
    refused(packed, other, "is not a whole kopt archive|is empty")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_download_cut_short_is_refused(packed: Path, other: Path, share: float) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * share)])
    refused(packed, other, "is not a whole kopt archive")


def test_a_flipped_bit_is_noticed(packed: Path, other: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0x10
    packed.write_bytes(data)
    with pytest.raises(UsageError):
        archive.unpack(packed, other)
    assert contents(other) == {}


def test_a_missing_file_is_one_line(other: Path) -> None:
    refused(other / "nope.tgz", other, "cannot read .*nope.tgz: No such file")


def _deep(files: Files) -> None:
    files[next(name for name in files if name.endswith("run.json"))] = b"[" * 100_000


def _in(old: bytes, new: bytes) -> Callable[[Files], None]:
    """In run.json and the journal."""

    def change(files: Files) -> None:
        before = dict(files)
        files.update({name: data.replace(old, new) for name, data in files.items() if not name.endswith(".py")})
        assert files != before

    return change


def _last(files: Files) -> None:
    for name in list(files):
        files["last/" + name.partition("/")[2]] = files.pop(name)


def _lesson(files: Files) -> None:
    name = next(name for name in files if name.endswith(FILE))
    seq = files[name].count(b"\n") + 1
    files[name] += b'{"seq":%d,"time":1,"elapsed":1,"type":"lesson","text":["a"]}\n' % seq


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_deep, "cannot read .*run.json"),
        (_in(b'"created": ', b'"created": 1e300, "x": '), "created: "),
        (_in(b'"target":"h200"', b'"target":["h200"]'), "what is said of submission 1 does not fit"),
        (_last, "is named 'last'"),
        (_lesson, r"\(lesson\) does not fit this version"),
    ],
)
def test_what_would_break_later_is_refused_at_once(
    packed: Path, other: Path, change: Callable[[Files], None], words: str
) -> None:
    files = files_of(packed)
    change(files)
    refused(repack(packed, files), other, words)


def test_a_full_disk_is_not_held_against_an_archive(
    packed: Path, other: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with pytest.raises(HarnessError, match="submissions: cannot be written: File too large"), full_disk():
        archive.unpack(packed, other)
    assert list((other / "submissions").iterdir()) == []
