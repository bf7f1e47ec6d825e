"""Runs side by side, where their numbers mean the same; where they do not, the reasons why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from kopt.meta import Meta
from kopt.records import Quantity
from kopt.report.ledger import Following, load
from kopt.report.page.believe import machine, power_caps
from kopt.report.page.chart import score
from kopt.report.page.scale import Axis, Tick, short, steps
from kopt.report.page.shapes import ShapeRow, shape_rows
from kopt.report.rows import Rows, rows
from kopt.report.task import about
from kopt.report.terminal import OF
from kopt.report.verdicts import verdict
from kopt.text import dollars, duration, line, percent

HEIGHT = 300


class Side(NamedTuple):
    """One of the runs."""

    rows: Rows
    meta: Meta
    following: Following
    shapes: list[ShapeRow]
    timing: tuple[str, ...]
    """Names of the shapes that the best submission has times for."""

    @property
    def caps(self) -> tuple[float, ...]:
        """Power limits in watts, where a GPU was measured."""
        return power_caps(self.meta.machine) if self.rows.evidence == "measured" else ()

    @property
    def regime(self) -> str:
        """The one behind a measured score; as `ledger.scored`."""
        regimes = {shape.regime for shape in self.shapes if shape.regime}
        return "burst" if "burst" in regimes else next(iter(regimes), "")


class Curve(NamedTuple):
    """Best so far by submission."""

    id: str
    words: str
    evidence: str
    path: str
    """In a box 1000 wide."""


class Plot(NamedTuple):
    height: float
    lines: list[Curve]
    xticks: list[Tick]
    yticks: list[Tick]


def side(folder: Path, workspace: Path) -> Side:
    following = load(folder)
    shown = rows(following.run)
    best = verdict(following.run, shown.best.n) if shown.best is not None else None
    shapes = shape_rows(best, about(following.run.meta, workspace))
    return Side(shown, following.run.meta, following, shapes, tuple(sorted({s.shape for s in shapes})))


def refusals(sides: Sequence[Side]) -> list[str]:
    """Why the scores of these runs are not numbers of one kind, one sentence each."""
    found = []
    scored = [s for s in sides if s.rows.evidence]
    timed, measured = [s for s in scored if s.timing], [s for s in scored if s.caps]
    regimes = [s for s in scored if s.regime]
    asked: tuple[tuple[str, Callable[[Side], str], Sequence[Side], str], ...] = (
        ("task", lambda s: s.meta.task, sides, "their work is not the same"),
        ("product", lambda s: s.rows.target_name, sides, "a fraction of one product's peak is not one of another's"),
        ("metric", lambda s: s.rows.metric, sides, "their scores are fractions of different things"),
        ("evidence", lambda s: s.rows.evidence or "", scored, "a model's number is not a measurement"),
        ("power limit", lambda s: _watts(s.caps), measured, "the same kernel is faster with more power"),
        ("regime", lambda s: s.regime, regimes, "a burst runs at higher clocks than sustained work"),
        ("timing shapes", lambda s: ", ".join(s.timing), timed, "their scores are means over different shapes"),
    )
    for name, value, which, why in asked:
        if words := _differ(which, value):
            found.append(f"Their {name} differs ({words}): {why}.")
    return found


def warnings(sides: Sequence[Side]) -> list[str]:
    """What does not forbid a comparison and should be known."""
    found = [f"{s.rows.id} has no score." for s in sides if s.rows.best is None]
    if any(s.caps for s in sides):
        measured = [s for s in sides if s.rows.evidence == "measured" and not s.caps]
        found += [f"The power limit of {s.rows.id}'s GPU was not recorded." for s in measured]
    apart = _apart(sides)
    asked: tuple[tuple[str, Callable[[Side], str]], ...] = (
        ("machine", lambda s: ", ".join(f"{name} {value}" for name, value in machine(s.meta.machine) if name in apart)),
        ("toolchain", lambda s: f"torch {s.meta.toolchain.torch}, triton {s.meta.toolchain.triton}"),
        ("evaluator's version", lambda s: str(s.meta.evaluator)),
        ("version of the task", lambda s: s.meta.task_sha[:12]),
    )
    for name, value in asked:
        if words := _differ(sides, value):
            found.append(f"Their {name} differs: {words}.")
    return found


def facts(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """The headlines side by side: name, and a cell for each run."""

    def best(s: Side) -> str:
        return f"{score(s.rows.best, s.following.ledger)} (#{s.rows.best.n})" if s.rows.best else ""

    asked: tuple[tuple[str, Callable[[Side], str]], ...] = (
        ("evidence", lambda s: s.rows.evidence or ""),
        ("best", best),
        ("first", lambda s: percent(s.rows.first.score) if s.rows.first else ""),
        ("factor", lambda s: f"{s.rows.factor:.2f}x" if s.rows.factor else ""),
        ("submissions", lambda s: f"{len(s.rows.submissions):,}"),
        ("passed", lambda s: f"{s.rows.statuses.get('passed', 0):,}"),
        ("trials", lambda s: f"{s.rows.charges['trials']:,.0f}"),
        ("tool calls", lambda s: f"{s.rows.charges['tool_calls']:,.0f}"),
        ("active time", lambda s: duration(s.rows.charges["seconds"])),
        ("dollars", lambda s: dollars(s.rows.charges["dollars"], int(s.rows.charges.get("unpriced", 0)))),
        ("proposer", lambda s: line(s.rows.proposer, 60)),
        ("target", lambda s: s.rows.target_name),
    )
    return [(name, [value(s) for s in sides]) for name, value in asked]


def by_shape(sides: Sequence[Side]) -> list[tuple[str, list[tuple[Quantity | None, float | None]]]]:
    """Times of the best submissions by shape and regime, with the speed against the first run's."""
    names = list(dict.fromkeys((s.shape, s.regime) for one in sides for s in one.shapes))
    found = []
    for shape, regime in names:
        times = [next((s.host for s in one.shapes if (s.shape, s.regime) == (shape, regime)), None) for one in sides]
        first = times[0]
        cells = [(us, first.value / us.value if us and first else None) for us in times]
        found.append((f"{shape} {regime}".strip(), cells))
    return found


def plot(sides: Sequence[Side]) -> Plot:
    most = max([len(s.rows.submissions) for s in sides] + [2])
    top = max([row.best or 0.0 for s in sides for row in s.rows.submissions] + [0.01])
    x, y = Axis(1, most, 100), Axis(0, top * 1.08, HEIGHT)
    lines = []
    for s in sides:
        path = ""
        for row in s.rows.submissions:
            if row.improved and row.best is not None:
                at, height = round(10 * x.at(row.n), 1), y.down(row.best)
                path += f"H{at:g}V{height:g}" if path else f"M{at:g} {height:g}"
        path += f"H{10 * x.at(len(s.rows.submissions)):g}" if path else ""
        lines.append(Curve(s.rows.id, _words(s), s.rows.evidence or "", path))
    ticks = [v for v in steps(1, most, 8) if v == int(v)]
    return Plot(
        HEIGHT, lines, [Tick(x.at(v), f"{v:,.0f}") for v in ticks],
        [Tick(y.down(v), f"{short(round(100 * v, 6))} %") for v in steps(0, y.high)],
    )  # fmt: skip


def page(folders: Sequence[Path], workspace: Path) -> dict[str, Any]:
    """What the page of a comparison shows."""
    sides = [side(folder, workspace) for folder in folders]
    return {
        "sides": sides,
        "refusals": refusals(sides),
        "warnings": warnings(sides),
        "facts": facts(sides),
        "shapes": by_shape(sides),
        "plot": plot(sides) if sides else None,
        "of": OF.get(sides[0].rows.metric, "") if sides else "",
    }


def as_json(sides: Sequence[Side]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "id": s.rows.id, "task": s.rows.task, "target": s.rows.target, "evidence": s.rows.evidence,
                "first": s.rows.first.score if s.rows.first else None,
                "best": s.rows.best.score if s.rows.best else None,
                "best_submission": s.rows.best.n if s.rows.best else None, "factor": s.rows.factor,
                "submissions": len(s.rows.submissions), "charges": s.rows.charges, "power_limits_w": s.caps,
                "shapes": {f"{r.shape} {r.regime}".strip(): r.host.value for r in s.shapes},
            }
            for s in sides
        ],
        "differences": refusals(sides),
        "warnings": warnings(sides),
    }  # fmt: skip


def _words(s: Side) -> str:
    best = f"{s.rows.evidence} {percent(s.rows.best.score)}" if s.rows.best else "no score"
    return f"{s.rows.id}, {best}"


def _differ(sides: Sequence[Side], value: Callable[[Side], str]) -> str:
    """ "A has x, B has y" when values differ, else ""."""
    values = [value(s) for s in sides]
    if all(a == b for a, b in pairwise(values)):
        return ""
    return ", ".join(f"{s.rows.id}: {line(v, 120) or 'none'}" for s, v in zip(sides, values, strict=True))


def _watts(caps: Sequence[float]) -> str:
    return ", ".join(f"{cap:g} W" for cap in caps)


def _apart(sides: Sequence[Side]) -> set[str]:
    """The parts of the fingerprints that differ: what tells machines of one product apart, as far as they do."""
    found = [machine(s.meta.machine) for s in sides]
    names = {name for one in found for name, _ in one}
    return {name for name in names if len({tuple(v for key, v in one if key == name) for one in found}) > 1}
