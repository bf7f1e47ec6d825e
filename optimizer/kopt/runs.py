"""The runs of a workspace: found by name, and summed up without replaying them whole.

`kopt runs` must answer at once, so this module reads journals as lines: it parses verdicts only, keeps what it learnt
in the user's cache, and reads on from there next time, because a journal only grows. Nothing here decides anything: the
replay in kopt/run.py does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt import journal
from kopt.errors import UsageError

if TYPE_CHECKING:
    from kopt.run import Run

META = "run.json"
LAST = "last"
"""Means the newest run, and is no run's own name."""
TOP = 32
_DIGITS = 18
HEAD = re.compile(rb'\{"seq":(\d+),"time":([-0-9.e]+),"elapsed":([-0-9.e]+),"type":"([^"\\]{1,80})"')


@dataclass
class Summary:
    """One run as a row. `state` is "live", "stopped", "interrupted" (its process died) or "broken"."""

    id: str
    created: float = 0.0
    task: str = ""
    target: str = ""
    proposer: str = ""
    metric: str = ""
    submissions: int = 0
    trials: int = 0
    passed: int = 0
    best: float | None = None
    best_n: int | None = None
    evidence: str | None = None
    """What stands behind `best`: "modelled" or "measured"."""
    seconds: float = 0.0
    """Active time."""
    last: str = ""
    """Type of the last event."""
    top: list[list[Any]] = field(default_factory=list)
    """Whether it was measured, score and number of the best submissions, the best first: a finale may refute some."""
    refuted: list[int] = field(default_factory=list)
    reason: str = ""
    """Why it stopped, or what is broken."""
    lines: int = 0
    offset: int = 0
    """Bytes of the journal that this row covers."""
    inode: int = 0
    folder: Path = field(default=Path(), compare=False)
    state: str = ""

    def as_json(self) -> dict[str, Any]:
        hidden = {"lines", "offset", "inode", "last", "top", "refuted"}
        return {**{k: v for k, v in asdict(self).items() if k not in hidden}, "folder": str(self.folder)}


def folder_of(workspace: Path) -> Path:
    return workspace / "submissions"


def names(workspace: Path) -> list[str]:
    """Ids of all runs, the newest first; no journal is opened."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder_of(workspace)):  # noqa: PTH208 (names are all that is needed)
            path = folder_of(workspace) / name / META
            if path.is_file() and not name.startswith("."):  # an import on its way
                found.append((_created(path), name))
    return [name for _, name in sorted(found, reverse=True)]


def _created(path: Path) -> float:
    """Unix time of a run's start; 0 when its run.json cannot be read. The file's own time is that of a copy."""
    try:
        return journal.moment(json.loads(path.read_bytes())["created"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0.0


def resolve(reference: str, workspace: Path) -> Path:
    """The folder of a run given by id, unique prefix, path, or "last"; UsageError says what there is instead."""
    if not reference:
        raise UsageError("an empty run name; kopt runs lists those there are")
    if os.sep in reference and (Path(reference) / META).is_file():
        return Path(reference)
    there = names(workspace)
    if not there:
        raise UsageError(f"no run {reference!r}: {folder_of(workspace)} holds none yet; kopt run TASK starts one")
    if reference == LAST:
        return folder_of(workspace) / there[0]
    if reference in there:
        return folder_of(workspace) / reference
    fitting = [name for name in there if name.startswith(reference)]
    if len(fitting) == 1:
        return folder_of(workspace) / fitting[0]
    if fitting:
        shown = ", ".join(fitting[:4]) + (", ..." if len(fitting) > 4 else "")
        raise UsageError(f"run {reference!r} is ambiguous: {shown}")
    raise UsageError(f"no run {reference!r} in {folder_of(workspace)}; kopt runs lists those there are")


def split(reference: str) -> tuple[str, str]:
    """RUN/N into run and submission; the submission is "" when only a run is named. N is a number, "best" or "last"."""
    run, slash, n = reference.rpartition("/")
    if slash and (n.isdecimal() or n in ("best", "last")):
        return run, n
    return reference.rstrip("/"), ""


def number(run: Run, word: str) -> int:
    """The submission that N in RUN/N means; UsageError when there is none."""
    if word == "best":
        if run.incumbent is None:
            raise UsageError(f"run {run.id} has no submission with a score yet")
        return run.incumbent.n
    if word == "last":
        return run.entry(run.last).n
    if len(word) > _DIGITS:  # Python reads no number of more than 4,300
        raise UsageError(f"run {run.id} has no submission of {len(word)} digits; it has 1 to {run.last}")
    return run.entry(int(word)).n


def summaries(workspace: Path) -> list[Summary]:
    """Every run as a row, the newest first. A run that cannot be read is a row that says so."""
    cache = _Cache(workspace)
    live = _locked_inodes()
    found = []
    for name in names(workspace):
        row = _summary(folder_of(workspace) / name, cache.rows.get(name))
        cache.rows[name] = row
        found.append(row)
    # One that began or ended while they were read was live for a while, and was not interrupted.
    live |= _locked_inodes()
    for row in found:
        if not row.state:
            row.state = "live" if row.inode in live else "stopped" if row.last == "stopped" else "interrupted"
    cache.save(found)
    return sorted(found, key=lambda row: row.created, reverse=True)


def _summary(folder: Path, known: Summary | None) -> Summary:
    row = Summary(folder.name, folder=folder)
    path = folder / journal.FILE
    try:
        meta = json.loads((folder / META).read_bytes())
        row.created = journal.moment(meta["created"])
        row.task, row.target, row.proposer = str(meta["task"]), str(meta["target"]), str(meta["proposer"])
        row.metric = str(meta.get("metric", "utilization"))
        stat = path.stat()
    except FileNotFoundError:
        return row  # started and not yet written to
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        row.state, row.reason = "broken", f"{META} cannot be read: {error}"
        return row
    if known and known.inode == stat.st_ino and known.offset <= stat.st_size and known.created == row.created:
        row = Summary(**{**asdict(known), "folder": folder, "state": ""})
    row.inode = stat.st_ino
    try:
        _read_on(row, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        row.state, row.reason = "broken", f"{journal.FILE} line {row.lines + 1}: {error}"
    return row


def _read_on(row: Summary, path: Path) -> None:
    with path.open("rb") as file:
        file.seek(row.offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            seq, elapsed, type = _head(line)
            if seq != row.lines + 1:
                raise ValueError(f"seq {seq} out of order")
            _take(row, type, line)
            row.seconds = max(row.seconds, elapsed)
            row.lines += 1
            row.offset += len(line)


def _head(line: bytes) -> tuple[int, float, str]:
    """Number, active seconds and type of an event; ValueError or KeyError when it is none."""
    if (head := HEAD.match(line)) is not None and line.endswith(b"}\n"):
        return int(head[1]), journal.moment(float(head[3])), head[4].decode()
    from pydantic_core import from_json

    event = from_json(line)
    return int(event["seq"]), journal.moment(event["elapsed"]), str(event["type"])


def _take(row: Summary, type: str, line: bytes) -> None:
    from pydantic_core import from_json

    row.last = type
    if type == "proposed":
        row.submissions += 1
    elif type == "trial":
        row.trials += 1
    elif type == "started":
        row.reason = ""
    elif type in _TAKE:
        event = from_json(line)
        # As in `Run.apply`: what another version wrote otherwise is left out.
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            _TAKE[type](row, event)


def _stopped(row: Summary, event: dict[str, Any]) -> None:
    row.reason = str(event["reason"])


def _verdict(row: Summary, event: dict[str, Any]) -> None:
    verdict = event["verdict"]
    n, score, evidence = int(verdict["submission"]), verdict.get("score"), verdict.get("evidence")
    row.passed += verdict["status"] == "passed"
    if score is None:
        return
    # As in `Entry.rank`: measured beats modelled, whatever the number.
    rank = [evidence == "measured", float(score)]
    row.top = sorted([*row.top, [*rank, n]], key=lambda one: (not one[0], -one[1], one[2]))[:TOP]
    if row.best is None or rank > [row.evidence == "measured", row.best]:
        row.best, row.best_n, row.evidence = float(score), n, str(evidence)


def _contest(row: Summary, event: dict[str, Any]) -> None:
    if event["contest"]["status"] != "passed":
        row.refuted.append(int(event["contest"]["submission"]))


def _finale(row: Summary, event: dict[str, Any]) -> None:
    finale = event["finale"]
    row.top = [one for one in row.top if one[2] not in row.refuted]
    if finale.get("winner") is not None:
        row.best, row.best_n, row.evidence = float(finale["score"]), int(finale["winner"]), "measured"
    elif row.best_n in row.refuted:
        measured, row.best, row.best_n = row.top[0] if row.top else (False, None, None)
        row.evidence = None if row.best is None else "measured" if measured else "modelled"


_TAKE = {"stopped": _stopped, "verdict": _verdict, "contest": _contest, "finale": _finale}


def is_live(folder: Path) -> bool:
    """Whether a process holds the run's journal."""
    try:
        return (folder / journal.FILE).stat().st_ino in _locked_inodes()
    except OSError:
        return False


def _locked_inodes() -> set[int]:
    """Inodes under an exclusive flock, from the kernel's list: asking by locking could make a writer fail."""
    found = set()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path("/proc/locks").read_text().splitlines():
                parts = line.split()
                if parts[1] == "FLOCK" and parts[3] == "WRITE":
                    found.add(int(parts[5].rsplit(":", 1)[1]))
    return found


class _Cache:
    """Rows of earlier readings, in the user's cache folder; losing it costs time only."""

    VERSION = 2

    def __init__(self, workspace: Path) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        key = hashlib.sha256(str(folder_of(workspace).resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        self.path = Path(base).expanduser() / "kopt" / f"runs-{key}.json"
        self.rows: dict[str, Summary] = {}
        self._before = ""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._before = self.path.read_text(encoding="utf-8")
            raw = json.loads(self._before)
            if raw["version"] == self.VERSION:
                self.rows = {row["id"]: Summary(**row) for row in raw["rows"]}

    def save(self, rows: Iterable[Summary]) -> None:
        kept = [f.name for f in fields(Summary) if f.name not in ("folder", "state")]
        whole = [{name: getattr(row, name) for name in kept} for row in rows if row.state != "broken"]
        text = json.dumps({"version": self.VERSION, "rows": whole})
        if text == self._before:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(f".{os.getpid()}")
            part.write_text(text, encoding="utf-8")
            part.replace(self.path)
