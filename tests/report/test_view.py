"""The server of reports: whom it answers, what it shows, and that a page follows its run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import made_runs as m
import nights
import pytest
from browser import axe, chromium, opened
from made_runs import Made

import kopt
from kopt import content
from kopt.journal import FILE, Journal
from kopt.report.view.live import LiveRun

httpx = pytest.importorskip("httpx")

PACKAGE = str(Path(kopt.__file__).parent.parent)
RUN = "night-one"


@contextmanager
def serving(workspace: Path) -> Iterator[str]:
    """`kopt view` in a process of its own; its address."""
    command = [sys.executable, "-m", "kopt", "view", "--workspace", str(workspace)]
    env = {**os.environ, "PYTHONPATH": PACKAGE}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), address
            yield address
        finally:
            process.terminate()
            process.wait(120)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    nights.night(folder, 30, seed=2, id=RUN, notes={4: nights.HOSTILE, 30: nights.HOSTILE})
    nights.night(folder, 20, seed=3, id="night-two")
    nights.night(folder, 12, seed=3, id="measured", measured=True)
    return folder


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    with serving(workspace) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "evil.example:80@127.0.0.1"}, 200),
        ({"host": "127.0.0.1@evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "10.1.2.3"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["", f"runs/{RUN}", f"runs/{RUN}/events"])
def test_only_this_machines_own_pages_get_an_answer(
    address: str, path: str, headers: dict[str, str], code: int
) -> None:
    with httpx.stream("GET", address + path, headers=headers, timeout=60) as answer:
        assert answer.status_code == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(address: str, method: str) -> None:
    assert httpx.request(method, f"{address}runs/{RUN}").status_code == 403


@pytest.mark.parametrize(
    "path",
    ["runs/%2e%2e", "runs/..%2f..%2fetc", "runs/nope", "runs/nope/1/article", f"runs/{RUN}/999",
     f"runs/{RUN}/999/article", f"runs/{RUN}/0/article", "etc/passwd", "compare?run=../..&run=x", f"runs/{RUN}%00",
     f"runs/{RUN}/{'9' * 5000}", f"runs/{RUN}/{'9' * 5000}/article", f"runs/{RUN}/-1"],
)  # fmt: skip
def test_what_is_not_in_the_workspace_is_not_found(address: str, path: str) -> None:
    answer = httpx.get(address + path, timeout=60)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_a_run_or_a_source_that_is_a_link_out_of_the_workspace_is_not_shown(tmp_path: Path) -> None:
    secret = "the-secret-of-another-folder"
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    nights.night(outside, 3, id="elsewhere", notes={1: secret})
    folder = nights.night(inside, 3, id="here")
    (folder.parent / "elsewhere").symlink_to(outside / "submissions" / "elsewhere")
    source = next((folder / "sources").glob("0001-*.py"))
    source.unlink()
    (tmp_path / "secret.py").write_text(secret)
    source.symlink_to(tmp_path / "secret.py")
    with serving(inside) as address:
        assert httpx.get(f"{address}runs/elsewhere", timeout=60).status_code == 404
        answer = httpx.get(f"{address}runs/here/1/article", timeout=60)
        assert answer.status_code == 200
        assert secret not in answer.text


def test_a_live_page_gains_a_point_when_the_journal_gains_a_verdict(browser: Any, tmp_path: Path) -> None:
    folder = nights.night(tmp_path, 12, id="live", stop=None, notes={12: "<b>bold</b>"})
    task = content.load_task("fp8_gemm", tmp_path)
    with (
        serving(tmp_path) as address,
        opened(browser, f"{address}runs/live") as found,
        Journal(folder / FILE) as journal,
    ):
        page = found.page
        page.locator("#live", has_text="live").wait_for()
        assert page.locator(".points a").count() == 12
        page.locator("#search .tuned").first.evaluate("part => { part.open = false; }")
        writer = nights.Writer(journal, folder, task, nights.random.Random(1))
        took = []
        for n, score in ((13, 0.71), (14, 0.72), (15, None)):
            made = Made(score, note=nights.HOSTILE) if score else Made(status=m.Status.WRONG)
            writer.submission(n, made)
            began = time.monotonic()
            page.locator(f"#r{n}.{'passed' if score else 'wrong'}").wait_for(timeout=60_000)
            took.append(time.monotonic() - began)
        assert page.locator(".points a").count() == 15
        assert page.locator("h1 .to").inner_text() == "72.0 %"
        assert "15" in page.locator(".figures").inner_text()
        assert not page.locator("#search .tuned").first.evaluate("part => part.open")
        page.locator("#r13 a").click()
        assert "<script>" in page.locator("#s13.open > .note").inner_text()
        journal.append("hologram", beam=1)
        page.locator("#headline .notice", has_text="hologram").wait_for(timeout=60_000)
        assert found.troubles == []
        assert page.evaluate("window.bad") is None
        assert page.evaluate("document.querySelectorAll('#tried-rows tr').length") == 15
        print("seconds from line to page:", [round(s, 2) for s in took])


def test_a_finale_or_another_kind_of_evidence_changes_every_row_for_everybody_who_looks(tmp_path: Path) -> None:
    folder = nights.night(tmp_path, 8, seed=8, id="night", measured=True, stop=None)
    run = LiveRun(folder, tmp_path)
    first = run.update(0).seq
    nights.finale(folder)
    for _ in range(2):  # two pages that were loaded before it
        assert run.update(first).reload
    assert not run.update(run.seq).reload


def test_the_first_score_of_a_run_names_its_evidence_everywhere(tmp_path: Path) -> None:
    folder = m.write(tmp_path, [Made(status=m.Status.WRONG)], stop=None)
    run = LiveRun(folder, tmp_path)
    first = run.update(0).seq
    with Journal(folder / FILE) as journal:
        writer = nights.Writer(journal, folder, content.load_task("fp8_gemm", tmp_path), nights.random.Random(1))
        writer.submission(2, Made(0.3))
    assert run.update(first).reload


def test_of_two_submissions_asked_for_the_last_one_is_open_whichever_comes_first(browser: Any, address: str) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    with opened(browser, f"{address}runs/{RUN}") as found:
        found.page.route("**/7/article", hold)
        found.page.evaluate("() => { window.first = kopt.open(7); }")
        found.page.evaluate("kopt.open(8)")
        assert found.page.locator("article.open").get_attribute("id") == "s8"
        held[0].continue_()
        found.page.evaluate("window.first")
        assert found.page.locator("article.open").get_attribute("id") == "s8"
        assert found.page.locator("#opening").inner_text() == ""


def test_a_page_says_when_its_run_rests_and_when_its_server_is_gone(browser: Any, tmp_path: Path) -> None:
    folder = nights.night(tmp_path, 3, id="live", stop=None)
    with serving(tmp_path) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}runs/live")
        with Journal(folder / FILE) as journal:
            page.locator("#live", has_text="live").wait_for()
            journal.append("stopped", reason="the budget is spent")
        page.locator("#live", has_text="at rest").wait_for()
        assert "the budget is spent" in page.locator("#headline").inner_text()
    page.locator("#live", has_text="not connected").wait_for()
    context.close()


def test_pages_of_the_server_complain_about_nothing_and_ask_nobody_else(browser: Any, address: str) -> None:
    for path in (
        "",
        f"runs/{RUN}",
        f"runs/{RUN}/4",
        f"compare?run={RUN}&run=night-two",
        f"compare?run={RUN}&run=measured",
    ):
        with opened(browser, address + path) as found:
            found.page.wait_for_load_state()
            assert found.troubles == [], path
            assert all(url.startswith((address, "data:")) for url in found.requests), path
            assert found.page.evaluate("window.bad") is None


def test_without_script_a_submission_has_a_page_of_its_own(browser: Any, address: str) -> None:
    with opened(browser, f"{address}runs/{RUN}", script=False) as found:
        found.page.locator("#r7 a").click()
        assert found.page.url.endswith(f"/runs/{RUN}/7")
        assert found.page.locator("article:visible").get_attribute("id") == "s7"


def test_runs_are_compared_where_their_numbers_mean_the_same(browser: Any, address: str) -> None:
    with opened(browser, address) as found:
        for name in (RUN, "night-two"):
            found.page.get_by_label(f"Compare {name}").check()
        found.page.get_by_role("button", name="Compare").click()
        assert found.page.locator(".curves path").count() == 2
    with opened(browser, f"{address}compare?run={RUN}&run=measured") as found:
        assert "a model's number is not a measurement" in found.page.locator(".notice.bad").inner_text()
        assert found.page.locator(".curves").count() == 0
        found.page.get_by_role("link", name="Compare them all the same").click()
        assert found.page.locator(".curves path").count() == 2
        assert found.page.locator(".badge.measured").count() == 1
        assert found.page.locator(".badge.modelled").count() == 1


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_list_and_a_comparison_pass_an_accessibility_audit(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    for path in ("", f"compare?run={RUN}&run=measured&anyway=1"):
        with opened(browser, address + path, width=width, scheme=scheme) as found:
            assert axe(found.page) == []
