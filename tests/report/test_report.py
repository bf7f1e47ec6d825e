"""Reports of odd runs, and what their numbers are made of."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_runs as m
import nights
import pytest
from made_runs import Made
from rich.console import Console

from kopt import content
from kopt.journal import FILE, Journal
from kopt.records import Evidence, Status
from kopt.report import terminal
from kopt.report.ledger import Following, load
from kopt.report.page.chart import chart
from kopt.report.page.render import Page
from kopt.report.page.search import importance
from kopt.report.page.standalone import standalone
from kopt.report.rows import rows
from kopt.report.task import About, about
from kopt.report.write import report
from kopt.run import TrialRow
from kopt.runs import summaries
from kopt.work import work


def said(renderable: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def html(folder: Path, workspace: Path) -> str:
    following = load(folder)
    return standalone(Page(following, about(following.run.meta, workspace)))


class Texts(HTMLParser):
    """Elements that are not ours, and all text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self._skip = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data


def read(page: str) -> Texts:
    found = Texts()
    found.feed(page)
    return found


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], "Nothing was submitted"),
        ([Made(finished=False)], "It has no verdict yet"),
        ([Made(status=status) for status in m.REASONS], "No submission has a score"),
        ([Made(0.3)], "30.0 %"),
        ([Made(0.0), Made(0.0)], "0.0 %"),
        ([Made(0.4), Made(0.3, evidence=Evidence.MEASURED)], "another kind of evidence"),
        ([Made(0.5, note="", origin="")], "No note."),
        ([Made(0.5, parent=1), Made(0.6, parent=99)], "60.0 %"),
    ],
    ids=["nothing", "no verdict", "only failures", "one", "zero", "mixed", "no words", "impossible parents"],
)
def test_every_run_has_a_sensible_page(workspace: Path, made: list[Made], says: str) -> None:
    folder = m.write(workspace, made)
    written = report(folder, workspace)
    page = written.page.read_text()
    assert says in read(page).text
    assert "Traceback" not in page
    assert "nan" not in re.findall(r'(?:x|y|d|cx|cy|width)="([^"]*)"', page)
    assert json.loads(written.json.read_text())["submissions"] == len(made)
    assert written.png.stat().st_size > 1000


def test_a_run_that_never_wrote_a_journal_has_a_page(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)])
    (folder / FILE).unlink()
    assert "Nothing was submitted" in read(html(folder, workspace)).text


def test_events_of_a_newer_version_are_named_and_break_nothing(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)], extra=[{"type": "<hologram>", "beam": 1}, {"type": "promotion", "of": 1}])
    text = read(html(folder, workspace)).text
    assert "does not know some events" in text
    assert "<hologram>" in text


def test_a_verdict_of_a_newer_version_is_shown_as_far_as_it_is_understood(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3), Made(0.5)])
    path = folder / FILE
    path.write_text(path.read_text().replace('"score":0.5,"evidence"', '"aura":"blue","score":0.5,"evidence"'))
    text = read(html(folder, workspace)).text
    assert "50.0 %" in text
    assert "written by another version of kopt" in text


def test_known_events_that_a_newer_version_wrote_otherwise_are_named_and_leave_gaps(workspace: Path) -> None:
    folder = nights.night(workspace, 4, stop=None)
    with Journal(folder / FILE) as journal:
        journal.append("proposed", submission={"number": 5})
        journal.append("verdict", verdict={"submission": 5, "status": "superseded"})
        writer = nights.Writer(
            journal, folder, nights.content.load_task("fp8_gemm", workspace), nights.random.Random(4)
        )
        writer.submission(6, Made(0.75, parent=4))
        writer.submission(7, Made(0.4, finished=False))
        journal.append("verdict", verdict={"submission": 7, "status": "superseded"})
        journal.append("<trial>", trial={})
        journal.append("tool", calls=["x"])
    written = report(folder, workspace)
    text = read(written.page.read_text()).text
    assert "cannot read some events of the journal, which another version wrote" in text
    assert "75.0 %" in text
    assert "It has no verdict that this version of kopt can read" in text
    short = json.loads(written.json.read_text())
    assert short["unread"] == {"proposed": 1, "verdict": 2, "tool": 1}
    assert short["submissions"] == 6
    (row,) = summaries(workspace)
    assert (row.state, row.best_n, row.best) == ("interrupted", 6, 0.75)
    shown = rows(load(folder).run)
    assert [r.n for r in shown.submissions] == [1, 2, 3, 4, 6, 7]
    assert "cannot read: proposed (1), tool (1), verdict (2)" in said(terminal.summary(shown))


def test_why_there_is_no_device_only_time_is_said(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3, evidence=Evidence.MEASURED)])
    assert "not asked for" in read(html(folder, workspace)).text
    path = folder / FILE
    refused = '"calls":0,"warnings":["no device-only time: the call cannot be captured in a CUDA graph"]'
    path.write_text(path.read_text().replace('"calls":0,"warnings":[]', refused))
    text = read(html(folder, workspace)).text
    assert "not replayable" in text
    assert "not asked for" not in text


def test_a_source_that_is_gone_is_named(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)])
    name = next((folder / "sources").iterdir())
    name.unlink()
    assert f"sources/{name.name} cannot be read" in read(html(folder, workspace)).text


def test_what_a_kernel_or_a_model_wrote_is_never_markup(workspace: Path) -> None:
    hostile = nights.HOSTILE
    made = [
        Made(0.3, note=hostile, origin=hostile, parameters={hostile: hostile}),
        Made(status=Status.WRONG, note=hostile, message=hostile * 20),
        Made(0.4, note="</script><!-- " + hostile),
    ]
    extra = [
        {"type": "lesson", "text": hostile}, {"type": "error", "message": hostile}, {"type": "notice", "text": hostile},
        {"type": hostile},
        {"type": "tool", "origin": "x", "name": hostile, "ok": True, "text": hostile, "submission": 3},
    ]  # fmt: skip
    folder = m.write(workspace, made, extra=extra, stop=hostile, proposer=hostile)
    for source in (folder / "sources").iterdir():
        source.write_text(f"# {hostile}\n</pre></script>\n")
    clean = m.write(workspace, [Made(0.3), Made(status=Status.WRONG), Made(0.4)], id="clean")
    found, usual = read(html(folder, workspace)), read(html(clean, workspace))
    assert set(found.tags) <= set(usual.tags) | {"code", "pre", "ol", "li", "summary", "bdi", "details"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.tags.count("script") == usual.tags.count("script")
    assert found.text.count("<script>window.bad=1</script>") >= 8
    assert "\x1b" not in found.text
    assert "\u202e" not in found.text


def test_the_markdown_of_a_hostile_run_is_text(workspace: Path) -> None:
    note = "[click](http://evil.example) <img src=x> | cell | `code` @everyone #1 www.evil.example **bold**: why"
    folder = m.write(workspace, [Made(0.3, note=note), Made(0.6, note=note)])
    text = report(folder, workspace).markdown.read_text()
    table = [line for line in text.splitlines() if "click" in line]
    assert table
    for line in table:
        assert not re.search(r"<img|(?<!\\)[\[\]`*]|@everyone|://|www\.", line)
        assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_the_summary_says_what_is_behind_the_number(workspace: Path) -> None:
    for measured, word in ((False, "modelled"), (True, "measured")):
        written = report(nights.night(workspace, 12, measured=measured, id=word), workspace)
        whole = json.loads(written.json.read_text())
        assert whole["evidence"] == word
        assert whole["best"]["score"] > whole["first"]["score"]
        assert (whole["interval"] is not None) == measured
        assert {shape["regime"] for shape in whole["shapes"]} == ({"burst", "sustained"} if measured else {""})
        assert f"**{word}: " in written.markdown.read_text()
        assert whole["believe"]["command"] in written.markdown.read_text()


def test_what_nobody_measured_is_not_shown(workspace: Path) -> None:
    text = read(html(nights.night(workspace, 12, model=False), workspace)).text
    assert "nothing was measured" in text
    assert "No model was asked, and no money was spent" in text
    for word in ("throttle", "× baseline", "host-inclusive", "interval is"):
        assert word not in text


def test_without_the_tasks_own_count_of_work_no_rate_is_shown(workspace: Path) -> None:
    folder = nights.night(workspace, 12, task_sha="0" * 64)
    text = read(html(folder, workspace)).text
    assert "TFLOP/s and GB/s are left out: the task fp8_gemm has changed since this run" in text
    assert "Roofline of" not in text


def test_the_work_that_a_run_recorded_outlives_its_task(workspace: Path) -> None:
    task = content.load_task("fp8_gemm", workspace)
    folder = nights.night(workspace, 12, task_sha="0" * 64, work=work(task, task.timing))
    text = read(html(folder, workspace)).text
    assert "left out" not in text
    assert "Roofline of" in text


def test_rates_are_the_work_over_the_time(workspace: Path) -> None:
    folder = nights.night(workspace, 12, measured=True)
    following = load(folder)
    page = Page(following, about(following.run.meta, workspace))
    for shape in page.sections()["shapes"]:
        cost = page.about.costs[shape.shape]
        assert shape.tflops.value == pytest.approx(cost.flops / shape.host.value / 1e6)
        assert shape.tflops.low == pytest.approx(cost.flops / shape.host.high / 1e6)
        assert shape.gbs.value == pytest.approx((cost.read + cost.written) / shape.host.value / 1e3)
        assert shape.tflops.value / 1979 == pytest.approx(shape.utilization.value, rel=1e-6)


def test_landmark_labels_and_points_stay_inside_the_plot(workspace: Path) -> None:
    for seed in range(4):
        following = load(m.write(workspace, m.climb(90, seed), id=f"run-{seed}"))
        found = chart(rows(following.run), following.ledger, None)
        assert len(found.points) == 90
        for point in found.points:
            assert 0 <= point.x <= 100
            assert 0 <= point.y <= found.height
        for mode in found.modes:
            assert len(mode.xs) == 90
            for label in mode.labels:
                assert label.x / 100 * 640 + label.shift >= -0.5
                assert label.x / 100 * 640 + label.shift + label.width <= 641


def test_money_and_calls_are_those_between_two_verdicts(workspace: Path) -> None:
    following = load(nights.night(workspace, 10))
    spent = following.ledger.spent
    assert spent[10].dollars == pytest.approx(2.1)
    assert [len(following.ledger.calls[n]) for n in (1, 5, 10)] == [5, 5, 5]
    assert spent[10].dollars == pytest.approx(following.run.charges.dollars)


def test_reading_on_gives_what_reading_at_once_gives(workspace: Path) -> None:
    whole = nights.night(workspace, 8, id="whole")
    lines = (whole / FILE).read_bytes().splitlines(keepends=True)
    part = workspace / "submissions" / "part"
    part.mkdir()
    (part / "run.json").write_text((whole / "run.json").read_text())
    (part / FILE).write_bytes(b"")
    following, seen = Following(part), 0
    for i, line in enumerate(lines):
        with (part / FILE).open("ab") as file:
            file.write(line[: len(line) // 2])
            file.flush()
            assert following.poll() == []
            file.write(line[len(line) // 2 :])
        seen += len(following.poll())
        assert seen == i + 1
    assert not following.grown
    once = load(whole)
    assert vars(following.ledger) == vars(once.ledger)
    assert rows(following.run).as_json() == rows(once.run).as_json()


def trials(score: Callable[[Any], float], count: int = 270) -> list[TrialRow]:
    points: list[Any] = [{"A": i % 3, "B": i // 3 % 3, "C": i // 9 % 3} for i in range(count)]
    return [TrialRow(i, point, Status.PASSED, score(point), 0, 0) for i, point in enumerate(points, 1)]


def test_importance_is_the_share_of_variance_that_a_parameter_explains_alone() -> None:
    found = importance(trials(lambda p: 0.5 + 0.1 * p["A"]))
    assert found["A"] == pytest.approx(1)
    assert found["B"] + found["C"] < 0.05
    shared = importance(trials(lambda p: p["A"] + 2.0 * p["B"]))
    assert shared["A"] == pytest.approx(0.2, abs=0.05)
    assert shared["B"] == pytest.approx(0.8, abs=0.05)


def test_importance_needs_enough_trials_that_differ() -> None:
    assert importance(trials(lambda p: 0.5 + 0.1 * p["A"], 7)) == {}
    assert importance(trials(lambda p: 0.5)) == {}


def test_a_run_goes_into_one_report_whatever_was_there_before(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)])
    first = report(folder, workspace)
    first.page.write_text("old")
    again = report(folder, workspace)
    assert again == first
    assert "30.0 %" in again.page.read_text()
    assert not list(again.page.parent.glob(".*"))


def test_the_same_run_gives_the_same_page(workspace: Path) -> None:
    folder = nights.night(workspace, 15)
    assert html(folder, workspace) == html(folder, workspace)


def test_a_report_needs_no_task_at_all(workspace: Path) -> None:
    following = load(m.write(workspace, [Made(0.3)], task="forgotten"))
    assert about(following.run.meta, workspace).missing == "the task forgotten is not at hand"
    assert "30.0 %" in standalone(Page(following, About(missing="the task forgotten is not at hand")))


@pytest.mark.slow
def test_ten_thousand_submissions_have_a_page(workspace: Path) -> None:
    folder = nights.night(workspace, 10_000)
    page = html(folder, workspace)
    assert page.count('<tr id="r') == 10_000
    assert len(re.findall(r'<a href="#s\d+" data-n="\d+" tabindex="-1"><(?:circle|use)', page)) >= 10_000
    assert len(page.encode()) < 10_000_000


def test_a_page_follows_a_journal_without_keeping_its_events(workspace: Path) -> None:
    folder = nights.night(workspace, 5, stop=None)
    following = load(folder)
    with Journal(folder / FILE) as journal:
        for i in range(200):
            journal.append("tool", origin="x", name="read", ok=True, text="x" * 1000, seconds=0.1, i=i)
            following.poll()
    assert len(repr(vars(following.ledger))) < 100_000
