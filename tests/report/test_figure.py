"""The figure: every submission a point, no two texts touching, "modelled" on it, the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import made_runs as m
import matplotlib as mpl
import pytest
from made_runs import Made

from kopt.errors import HarnessError
from kopt.records import Evidence, Status
from kopt.report import figure
from kopt.report.figure import compose, draw, shares
from kopt.report.rows import Rows, rows
from kopt.report.style import MARKS, settings


def of(workspace: Path, made: list[Made], **over: object) -> Rows:
    return rows(m.load(m.write(workspace, made, **over)))  # type: ignore[arg-type]


def texts(drawn: figure.Figure) -> list[object]:
    """Every visible text with its place on the page, the watermark apart."""
    from matplotlib.text import Text

    drawn.canvas.draw()
    found = [t for t in drawn.findobj(Text) if t.get_visible() and t.get_text().strip()]
    # An axis keeps ticks beyond its limits, which are not drawn.
    width, height = drawn.bbox.width, drawn.bbox.height
    shown = [t for t in found if t.get_alpha() != 0.07 and t.get_clip_on() is not None]
    return [t for t in shown if not _hidden_tick(t, width, height)]


def _hidden_tick(text: object, width: float, height: float) -> bool:
    axes = getattr(text, "axes", None)
    if axes is None:
        return False
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        for tick in axis.get_major_ticks() + axis.get_minor_ticks():
            if text in (tick.label1, tick.label2):
                return not (low <= tick.get_loc() <= high) or not tick.label1.get_visible()
    return False


def overlaps(drawn: figure.Figure) -> list[tuple[str, str]]:
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(drawn)]  # type: ignore[attr-defined]
    found = []
    for (a, box), (b, other) in combinations(boxes, 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        along = min(box.y1, other.y1) - max(box.y0, other.y0)
        if across > 1 and along > 1:
            found.append((a, b))
    return found


RUNS = {
    "empty": [],
    "one": [Made(0.076)],
    "one failure": [Made(status=Status.WRONG)],
    "one of each failure": [Made(status=status) for status in m.REASONS] + [Made(finished=False)],
    "eight": m.climb(8, 8),
    "forty": m.climb(40, 40),
    "a night": m.climb(150, 7),
    "above the line": m.climb(30, 3, top=0.72),
    "just below the line": m.climb(30, 3, top=0.705),
    "measured": m.climb(20, 5, evidence=Evidence.MEASURED),
    "measured after modelled": [*m.climb(10, 1), *m.climb(10, 2, evidence=Evidence.MEASURED)],
    "long notes": [Made(0.1 * (i + 1), note="W" * 200) for i in range(7)],
    "steps at the end": [Made(0.1)] * 60 + [Made(0.1 + 0.08 * i, note=f"an idea called {i}: x") for i in range(7)],
    "steps at the start": [Made(0.1 + 0.08 * i, note=f"an idea called {i}: x") for i in range(7)] + [Made(0.1)] * 60,
    "math, markup, escapes": [Made(0.1, note="$\\frac{1}{0$ [red]x[/red]"), Made(0.5, note="\x1b[31m \u202e $x$")],
    "chinese and arabic": [Made(0.1, note="更深的流水线"), Made(0.5, note="مرحبا بالعالم"), Made(0.6, note="שלום")],
    "tiny scores": [Made(0.0001), Made(0.0004)],
}


@pytest.mark.parametrize("name", RUNS)
def test_no_two_texts_touch_and_none_leaves_the_page(workspace: Path, name: str) -> None:
    long = "fp8_gemm-" + "x" * 70
    with mpl.rc_context(settings()):
        # Beside a run that was measured, the vendor's line: here where it is most in the way.
        found = of(workspace, RUNS[name], id=long)
        beside = found.best.score if found.best and found.evidence == "measured" else None
        drawn = compose(found, beside)
        assert overlaps(drawn) == []
        width, height = drawn.bbox.width, drawn.bbox.height
        for text in texts(drawn):
            box = text.get_window_extent()  # type: ignore[attr-defined]
            assert box.x0 >= 0, text
            assert box.x1 <= width, text
            assert box.y0 >= 0, text
            assert box.y1 <= height, text


@pytest.mark.parametrize("name", ["one of each failure", "forty", "measured after modelled"])
def test_every_submission_is_a_point(workspace: Path, name: str) -> None:
    from matplotlib.collections import PathCollection

    with mpl.rc_context(settings()):
        drawn = compose(of(workspace, RUNS[name]))
    points = [x for axes in drawn.axes for c in axes.collections if isinstance(c, PathCollection)
              for x in c.get_offsets()[:, 0]]  # fmt: skip
    assert sorted(points) == list(range(1, len(RUNS[name]) + 1))


def test_every_status_has_a_colour_and_a_shape_of_its_own() -> None:
    assert set(MARKS) == {*map(str, Status), "pending"}
    assert len({mark.colour for mark in MARKS.values()}) == len(MARKS)
    assert len({mark.shape for mark in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize(("evidence", "word"), [(Evidence.MODELLED, "MODELLED"), (Evidence.MEASURED, "MEASURED")])
def test_what_stands_behind_the_numbers_is_written_large(workspace: Path, evidence: Evidence, word: str) -> None:
    with mpl.rc_context(settings()):
        drawn = compose(of(workspace, [Made(0.3, evidence=evidence)]))
        large = {t.get_text() for t in texts(drawn) if t.get_fontsize() >= 17}  # type: ignore[attr-defined]
    other = {"MODELLED", "MEASURED"} - {word}
    assert word in large
    assert not other & large


@pytest.mark.parametrize("top", [0.004, 0.0061, 0.03, 0.06, 0.061, 0.1, 0.2, 0.204, 0.42, 0.77, 1.0])
def test_every_gridline_stands_where_its_label_says(top: float) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set_ylim(0, top)
    shares(axes)
    lines = axes.get_yticks()
    labels = axes.yaxis.get_major_formatter().format_ticks(lines)
    assert [float(label.removesuffix(" %")) for label in labels] == pytest.approx([100 * y for y in lines], abs=1e-9)
    assert 3 <= sum(y <= top for y in lines) <= 11


def test_the_published_line_stands_at_71_3_percent_on_hopper(workspace: Path) -> None:
    with mpl.rc_context(settings()):
        drawn = compose(of(workspace, [Made(0.3)]))
    level = [line for line in drawn.axes[0].lines if list(line.get_ydata()) == [0.713, 0.713]]
    assert len(level) == 1


def test_the_vendors_line_stands_at_its_score(workspace: Path) -> None:
    with mpl.rc_context(settings()):
        drawn = compose(of(workspace, [Made(0.3, evidence=Evidence.MEASURED)]), 0.9)
    assert [0.9, 0.9] in [list(line.get_ydata()) for line in drawn.axes[0].lines]
    assert drawn.axes[0].get_ylim()[1] > 0.9


def test_the_same_run_gives_the_same_bytes_and_sensible_sizes(workspace: Path) -> None:
    found = of(workspace, RUNS["forty"])
    first = [path.read_bytes() for path in draw(found, workspace / "a")]
    second = [path.read_bytes() for path in draw(found, workspace / "b")]
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert sorted(path.name for path in (workspace / "a").iterdir()) == ["utilization.png", "utilization.svg"]


def test_hostile_notes_cannot_write_markup_into_the_svg(workspace: Path) -> None:
    found = of(workspace, [Made(0.3, note="<script>alert(1)</script>")], id="a<b>&x")
    svg = draw(found, workspace / "out")[1].read_text()
    assert "<script" not in svg


def test_a_folder_that_cannot_be_written_is_one_line(workspace: Path) -> None:
    (workspace / "reports").write_text("a file in the way")
    with pytest.raises(HarnessError, match=r"cannot write figures into .*reports"):
        draw(of(workspace, [Made(0.3)]), workspace / "reports" / "x")


def test_drawing_never_imports_pyplot(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)])
    code = (
        "import sys; from pathlib import Path; from kopt.run import Run; from kopt.report import figure, rows\n"
        f"figure.draw(rows.rows(Run.load(Path({str(folder)!r}))), Path({str(workspace)!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
