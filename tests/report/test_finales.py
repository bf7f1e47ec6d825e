"""What a finale measured again is what every view shows: the headline is verified, or says that it is not."""

from __future__ import annotations

import io
from pathlib import Path

import made_runs as m
import nights
import pytest
from rich.console import Console

from kopt.journal import FILE, Journal, read
from kopt.report import figure, live, terminal
from kopt.report.ledger import Following, load
from kopt.report.page.render import Page
from kopt.report.page.standalone import standalone
from kopt.report.rows import Row, rows
from kopt.report.task import about
from kopt.report.verdicts import verdict
from kopt.run import Run
from kopt.runs import summaries
from kopt.text import percent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured night whose best did not hold up, and whose next ones did."""
    found = nights.night(tmp_path_factory.mktemp("workspace"), 40, seed=8, id="night", measured=True, stop=None)
    nights.finale(found)
    return found


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    following = load(folder)
    return Page(following, about(following.run.meta, folder.parent.parent))


def row(page: Page, n: int) -> Row:
    found = page.rows.row(n)
    assert found is not None
    return found


def test_the_best_so_far_ends_at_the_verified_number(page: Page) -> None:
    shown, finale = page.rows, page.following.run.finale
    assert finale is not None
    assert shown.best is not None
    assert (shown.best.n, shown.best.score) == (finale.winner, finale.score)
    assert shown.series()[-1] == (finale.winner, finale.score)
    assert shown.landmarks[-1].n == finale.winner
    assert shown.submissions[-1].best == finale.score
    assert shown.top()[0].n == finale.winner


def test_what_was_refuted_is_no_best_and_says_why(page: Page) -> None:
    (refuted,) = [r for r in page.rows.submissions if r.refuted]
    assert (refuted.score or 0) > (page.rows.best.score if page.rows.best and page.rows.best.score else 1)
    assert not refuted.improved
    assert refuted.n not in [r.n for r in page.rows.top(40)]
    for text in (page.article(refuted.n), standalone(page)):
        assert "did not hold up" in text
        assert "<script>window.bad" not in text


def test_times_and_intervals_are_those_of_the_second_measurement(page: Page) -> None:
    run, best = page.following.run, page.rows.best
    assert best is not None
    assert run.finale is not None
    shown = verdict(run, best.n)
    assert shown is not None
    assert shown.measurements == run.finale.measurements + run.finale.sustained
    assert shown.score == run.finale.score
    low, high = page.following.ledger.intervals[best.n]
    assert low < (best.score or 0) < high
    # One that lost in the finale has its own numbers from there too.
    other = next(c for c in run.contests if c.passed and c.submission != best.n)
    assert verdict(run, other.submission).measurements == other.measurements  # type: ignore[union-attr]
    low, high = page.following.ledger.intervals[other.submission]
    assert low < (other.score or 0) < high


def test_lasting_load_is_shown_beside_the_headline_and_is_no_part_of_it(page: Page) -> None:
    run, best = page.following.run, page.rows.best
    assert best is not None
    assert run.finale is not None
    slow, fast = (min(m.utilization.value for m in found if m.utilization)
                  for found in (run.finale.sustained, run.finale.measurements))  # fmt: skip
    assert slow < fast
    assert best.score == run.finale.score
    assert page.article(best.n).count("<td>sustained</td>") == len(run.finale.sustained)
    out = io.StringIO()
    lines = live.Lines(Console(file=out, width=200))
    for event in read(run.folder / FILE):
        lines.on_event(event, run)
    assert f"under lasting load: #{best.n}  {percent(slow)} to " in out.getvalue()


def test_the_page_says_verified_and_lists_what_was_measured_again(page: Page) -> None:
    text = standalone(page)
    assert '<span class="verified">verified</span>' in text
    assert "measured again at the end in fresh processes with fresh inputs, 20 quads a shape" in text
    again = page.sections()["state"].again
    assert [a.status for a in again] == ["wrong", "passed", "passed", "passed"]
    assert all(a.screened is not None and a.screened > (a.score or 0.0) for a in again)


def test_a_run_without_a_finale_or_whose_finale_nobody_survived_is_called_not_verified(tmp_path: Path) -> None:
    for id, held in (("none", False), ("lost", True)):
        folder = nights.night(tmp_path, 12, seed=8, id=id, measured=True, stop=None)
        if held:
            nights.finale(folder, holds=False)
        following = load(folder)
        page = Page(following, about(following.run.meta, tmp_path))
        assert "not verified at the end" in page.sections()["state"].state
        assert 'class="verified"' not in standalone(page)
        best = page.rows.best
        assert best is not None
        assert not best.refuted
        row = next(row for row in summaries(tmp_path) if row.id == id)
        assert (row.best_n, row.best, row.evidence) == (best.n, best.score, "measured")
        kept = [r.score or 0.0 for r in page.rows.submissions if not r.refuted]
        assert best.score == max(kept)


def test_what_comes_after_a_finale_is_not_covered_by_it(tmp_path: Path) -> None:
    folder = nights.night(tmp_path, 12, seed=8, measured=True, stop=None)
    nights.finale(folder)
    n = next(entry.n for entry in Run.load(folder) if entry.screened is not None)
    score = Run.load(folder).entry(n).score
    with Journal(folder / FILE) as journal:
        writer = nights.Writer(journal, folder, nights.content.load_task("fp8_gemm", tmp_path), nights.random.Random(1))
        writer.submission(13, m.Made(0.01, evidence=m.Evidence.MEASURED))
    following = load(folder)
    page = Page(following, about(following.run.meta, tmp_path))
    assert page.rows.verified is None
    # Its score is still that of the second measurement, and so are its times.
    shown = verdict(following.run, n)
    assert shown is not None
    assert shown.score == score == row(page, n).score
    assert len({measurement.regime for measurement in shown.measurements}) == 1


def test_reading_on_through_a_finale_gives_what_reading_at_once_gives(folder: Path) -> None:
    following = Following(folder)
    for _ in following.steps():
        pass
    at_once = load(folder)
    assert following.ledger.intervals == at_once.ledger.intervals
    assert following.ledger.stages == at_once.ledger.stages


def test_terminal_and_figure_say_it_too(page: Page) -> None:
    console = Console(width=160, file=io.StringIO())
    console.print(terminal.summary(page.rows))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "verified with 20 quads a shape" in text
    assert "Did not hold up when measured again" in text
    drawn = figure.compose(page.rows)
    said = [t.get_text() for t in drawn.texts]
    assert "verified with 20 quads a shape" in said


def test_what_has_no_baseline_is_verified_by_batches(folder: Path) -> None:
    run = Run.load(folder)
    assert run.finale is not None
    run.finale = run.finale.model_copy(update={"quads": 0, "batches": 12})
    assert (rows(run).verified, rows(run).behind) == (12, "12 batches")
