"""The self-contained page in a real browser: from disk, with the mouse, with the keyboard and without script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nights
import pytest
from browser import Opened, axe, chromium, opened

from kopt.report.write import Written, report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A night of 150 submissions with notes in other scripts and one that attacks the page."""
    workspace = tmp_path_factory.mktemp("modelled")
    notes = {5: nights.CHINESE, 9: nights.HEBREW, 12: nights.HOSTILE, 150: nights.HOSTILE}
    return report(nights.night(workspace, 150, seed=3, notes=notes, source=f"# {nights.HOSTILE}"), workspace)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Written:
    workspace = tmp_path_factory.mktemp("measured")
    return report(nights.night(workspace, 40, seed=4, measured=True), workspace)


@pytest.fixture
def page(browser: Any, modelled: Written) -> Iterator[Opened]:
    with opened(browser, modelled.page.as_uri()) as found:
        yield found


def test_a_night_of_150_fits_in_a_megabyte_and_a_half_with_its_sources(modelled: Written) -> None:
    assert modelled.page.stat().st_size < 1_500_000


def test_the_page_asks_for_nothing_and_complains_about_nothing(page: Opened) -> None:
    page.page.locator("#r77 a").click()
    page.page.locator("#s77 .source summary").click()
    page.page.locator("#s77 .source .python").wait_for()
    assert page.troubles == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


def test_every_submission_is_a_point_that_opens_it(page: Opened) -> None:
    points = page.page.locator(".points a")
    assert points.count() == 150
    assert sorted(int(n) for n in points.evaluate_all("links => links.map(link => link.dataset.n)")) == list(
        range(1, 151)
    )
    points.nth(41).click(force=True)
    page.page.locator("#s42.open").wait_for()
    assert page.page.url.endswith("#s42")
    assert page.page.locator("article:visible").count() == 1


def test_hovering_a_point_shows_number_utilization_and_note(page: Opened) -> None:
    point = page.page.locator(".points a[data-n='1']")
    point.hover(force=True)
    said = page.page.locator("#tip").inner_text()
    assert said.startswith("#1 passed, modelled 7.6 % of peak")
    assert "Naive pointers" in said


def test_arrow_keys_walk_the_points_and_enter_opens_one(page: Opened) -> None:
    page.page.evaluate("document.querySelector('.points a[tabindex=\"0\"]').focus()")
    page.page.keyboard.press("Home")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    page.page.locator("#s3.open").wait_for()
    assert page.page.evaluate("document.activeElement.id") == "s3"


def test_the_table_sorts_by_its_heads(page: Opened) -> None:
    head = page.page.locator("#table th[data-key='score']")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    scores = page.page.locator("#tried-rows tr").evaluate_all("rows => rows.map(row => row.dataset.v)")
    known = [float(score) for score in scores if score]
    assert known == sorted(known, reverse=True)
    assert scores[len(known) :] == [""] * (150 - len(known))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"


def test_the_table_is_filtered_by_words_and_status(page: Opened) -> None:
    page.page.locator("#search-status").select_option("wrong")
    rows = page.page.locator("#tried-rows tr:visible")
    assert 0 < rows.count() < 150
    assert set(rows.evaluate_all("rows => rows.map(row => row.className)")) == {"wrong"}
    page.page.locator("#search-status").select_option("")
    page.page.locator("#search-text").fill("持久化内核")
    page.page.locator("#fitting", has_text="1 of 150").wait_for()
    assert rows.evaluate_all("rows => rows.map(row => row.id)") == ["r5"]


@pytest.mark.parametrize("mode", ["time", "dollars", "calls"])
def test_the_chart_lies_across_time_dollars_or_tool_calls(page: Opened, mode: str) -> None:
    before = _places(page)
    page.page.locator(f"input[name='mode'][value='{mode}']").check()
    after = _places(page)
    assert after != before
    assert after == sorted(after)
    assert all(0 <= place <= 100 for place in after)


def test_texts_of_the_chart_never_overlap(browser: Any, modelled: Written, measured: Written) -> None:
    for written in (modelled, measured):
        for width in (1440, 900, 390):
            with opened(browser, written.page.as_uri(), width=width) as found:
                for mode in ("submission", "time", "dollars"):
                    found.page.locator(f"input[name='mode'][value='{mode}']").check()
                    assert found.page.evaluate(OVERLAPS) == [], f"{width} px across {mode}"


def test_every_source_is_in_the_page(page: Opened, modelled: Written) -> None:
    sources = modelled.page.parent.parent.parent / "submissions" / modelled.page.parent.name / "sources"
    for n in (2, 60, 139):
        page.page.evaluate(f"location.hash = '#s{n}'")
        page.page.locator(f"#s{n}.open").wait_for()
        summary = page.page.locator(f"#s{n} .source summary")
        if page.page.locator(f"#s{n} .source").get_attribute("open") is None:
            summary.click()
        shown = page.page.locator(f"#s{n} .source .python")
        shown.wait_for()
        path = next(sources.glob(f"{n:04d}-*.py"))
        assert shown.inner_text().rstrip("\n") == path.read_text().rstrip("\n").replace("\x1b", "␛").replace(
            "\u202e", "<U+202E>"
        )


def test_what_a_kernel_or_a_model_wrote_is_text(page: Opened) -> None:
    for n in (12, 150):
        page.page.evaluate(f"location.hash = '#s{n}'")
        page.page.locator(f"#s{n}.open").wait_for()
        assert "<script>window.bad=1</script>" in page.page.locator(f"#s{n} > .note").inner_text()
    assert page.page.evaluate("window.bad") is None
    assert page.page.locator("img").count() == 0
    assert page.troubles == []


def test_without_script_every_point_and_row_still_leads_to_its_submission(browser: Any, modelled: Written) -> None:
    with opened(browser, modelled.page.as_uri(), script=False) as found:
        assert found.page.locator("article:visible").count() == 1
        found.page.locator("#r17 a").click()
        assert found.page.locator("article:visible").get_attribute("id") == "s17"
        found.page.locator(".points a[data-n='33']").click(force=True)
        assert found.page.locator("article:visible").get_attribute("id") == "s33"
        assert found.page.locator("#s33 .diff").count() >= 1
        assert found.page.locator(".script:visible").count() == 0


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [("measured", 1440, "light"), ("measured", 1440, "dark"), ("measured", 390, "light"), ("modelled", 390, "dark")],
)
def test_an_accessibility_audit_finds_nothing_serious(
    browser: Any, request: pytest.FixtureRequest, kind: str, width: int, scheme: str
) -> None:
    written: Written = request.getfixturevalue(kind)
    with opened(browser, written.page.as_uri(), width=width, scheme=scheme) as found:
        found.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert axe(found.page) == []


def test_a_phone_scrolls_down_and_never_sideways(browser: Any, modelled: Written, measured: Written) -> None:
    for written in (modelled, measured):
        with opened(browser, written.page.as_uri(), width=390) as found:
            assert found.page.evaluate("document.documentElement.scrollWidth") == 390


def test_modelled_and_measured_say_so_in_the_headline(browser: Any, modelled: Written, measured: Written) -> None:
    for written, word, other in ((modelled, "modelled", "measured"), (measured, "measured", "modelled")):
        with opened(browser, written.page.as_uri()) as found:
            assert found.page.locator(".lead .badge").inner_text().lower() == word
            assert found.page.locator(f"#headline .badge.{other}").count() == 0


def _places(page: Opened) -> list[float]:
    found: list[float] = page.page.locator(".points .p").evaluate_all(
        "marks => marks.map(mark => parseFloat(mark.getAttribute(mark.tagName === 'use' ? 'x' : 'cx')))"
    )
    return found


OVERLAPS = """() => {
  const wanted = '#chart figure text:not(.watermark), #shapes figure text, #search figure text';
  const texts = [...document.querySelectorAll(wanted)]
    .filter((text) => text.textContent && text.checkVisibility({visibilityProperty: true}))
    .map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (x, y) =>
    x.left < y.right - 1 && y.left < x.right - 1 && x.top < y.bottom - 3 && y.top < x.bottom - 3;
  return texts.flatMap(([a, x], i) => texts.slice(i + 1).filter(([, y]) => meet(x, y)).map(([b]) => a + ' / ' + b));
}"""


def test_of_a_long_run_the_less_telling_submissions_are_told_from_the_table_and_the_packed_sources(
    browser: Any, tmp_path: Path
) -> None:
    folder = nights.night(tmp_path, 420, seed=5)
    with opened(browser, report(folder, tmp_path).page.as_uri()) as found:
        page = found.page
        brief = page.evaluate(
            """async () => {
                for (const row of document.querySelectorAll("#tried-rows tr.passed[data-p]")) {
                    const n = +row.id.slice(1);
                    const article = await kopt.missing(n);
                    if (article && article.textContent.includes("says more")) return n;
                }
            }"""
        )
        assert brief, "a run of more submissions than are kept in full"
        page.locator(f"#r{brief} a").click()
        article = page.locator(f"#s{brief}.open")
        article.wait_for()
        assert "MODELLED" in article.locator("h3").inner_text().upper()
        assert "%" in article.locator("h3").inner_text()
        article.locator(".source summary").click()
        name = next((folder / "sources").glob(f"{brief:04d}-*.py"))
        assert article.locator(".source .python").inner_text().rstrip() == name.read_text().rstrip()
        article.locator("[data-diff] summary").click()
        assert article.locator(".diff ins, .diff del").count() > 0
        assert found.troubles == []


def test_a_submission_that_is_opened_twice_at_once_shows_its_difference_once(browser: Any, tmp_path: Path) -> None:
    folder = nights.night(tmp_path, 420, seed=5)
    with opened(browser, report(folder, tmp_path).page.as_uri()) as found:
        count = found.page.evaluate(
            """async () => {
                for (const row of document.querySelectorAll("#tried-rows tr.passed[data-p]")) {
                    const n = +row.id.slice(1), article = await kopt.missing(n);
                    if (!article || !article.querySelector("[data-diff]")) continue;
                    await Promise.all([kopt.opened(article, n), kopt.opened(article, n)]);
                    return article.querySelectorAll("[data-diff] > details").length;
                }
            }"""
        )
        assert count == 1
