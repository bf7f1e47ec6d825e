"""A real Chromium for the tests of pages, driven by Playwright; what it hears and asks for while a page is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str | None:
    """The browser named by KOPT_CHROMIUM, else one that is installed."""
    return os.environ.get("KOPT_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; the test is skipped, saying why, where there is none."""
    path = executable()
    if path is None and os.environ.get("CI"):
        pytest.fail("no Chromium: tests/chromium.sh could not install one")
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set KOPT_CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'kopt-gpu[dev]'")
    with sync_api.sync_playwright() as playwright:
        # The sandbox needs user namespaces, which root in a container does not have.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page with what went wrong on it and what it asked the network for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.requests: list[str] = []
        page.on(
            "console",
            lambda message: self.troubles.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@contextmanager
def opened(
    browser: Any, url: str, *, width: int = 1440, scheme: str = "light", script: bool = True
) -> Iterator[Opened]:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
    )
    try:
        found = Opened(context.new_page())
        found.page.goto(url)
        yield found
    finally:
        context.close()


def axe(page: Any) -> list[str]:
    """Serious and critical findings of an accessibility audit, one line each."""
    from importlib.resources import files

    source = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{item['id']} ({item['impact']}): {item['help']}: {node['html'][:160]}: {node.get('failureSummary', '')[:200]}"
        for item in found["violations"]
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"][:3]
    ]
