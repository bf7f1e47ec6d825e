"""From a run to its page: everything that is shown, put into templates. Autoescaped throughout."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kopt.records import Quantity, Verdict
from kopt.report.highlight import Library
from kopt.report.ledger import Following, costs
from kopt.report.page import chart as charts
from kopt.report.page import pack
from kopt.report.page.believe import believe
from kopt.report.page.money import money
from kopt.report.page.roofline import roofline
from kopt.report.page.search import account, tuned
from kopt.report.page.shapes import shape_rows, vendor
from kopt.report.page.submission import Sources, article, cost, summary
from kopt.report.rows import Row, Rows, rows
from kopt.report.task import About
from kopt.report.terminal import OF, duration
from kopt.report.text import headline, line, percent, plain

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"

BUDGET = 1_400_000
"""Bytes of a page up to which submissions stand in it as they are; the rest is compressed and opened by script."""
WHOLE = 400
"""Up to so many submissions, all differences are in the page."""
WORDS = {"compile_error": "compile error", "pending": "no verdict yet"}


@dataclass(frozen=True)
class Site:
    """Where a page is shown: a file of its own, or a server with other pages beside it."""

    live: bool = False
    base: str = ""
    """Path of the run on the server."""

    def submission(self, n: int) -> str:
        return f"{self.base}/{n}" if self.live else f"#s{n}"


class Page:
    """A run as its page shows it. Computing it reads the verdicts of the landmarks only."""

    def __init__(self, following: Following, about: About, site: Site = Site()) -> None:  # noqa: B008 (frozen)
        self.following, self.about, self.site = following, about, site
        self.rows: Rows = rows(following.run)
        self.sources = Sources(following.run, Library())

    def sections(self) -> dict[str, Any]:
        """What the sections above the list of submissions show."""
        run, ledger, shown = self.following.run, self.following.ledger, self.rows
        best = self.verdict(shown.best.n) if shown.best else None
        marks = [(mark, self.verdict(mark.n)) for mark in shown.landmarks]
        bill = money(run, ledger)
        return {
            "rows": shown, "site": self.site, "run": run, "about": self.about, "of": OF.get(shown.metric, shown.metric),
            "state": believe(run, shown, best), "chart": charts.chart(shown, ledger, vendor(best, shown.metric)),
            "best_interval": ledger.intervals.get(shown.best.n) if shown.best else None,
            "shapes": shape_rows(best, self.about), "money": bill, "ledger": ledger,
            "roofline": roofline(shown.target, marks, self.about, shown.evidence),
            "tuned": tuned(run), "account": account(ledger),
        }  # fmt: skip

    def verdict(self, n: int) -> Verdict | None:
        try:
            return self.following.run.verdict(n)
        except ValueError:  # written by a newer kopt
            return None

    def change(self, row: Row) -> str:
        return summary(self.rows, self.sources, row)

    def table_row(self, row: Row) -> str:
        spent = costs(self.following.ledger, row.n)
        return _template("_row.html.j2").render(
            row=row, page=self, site=self.site, ledger=self.following.ledger, spent=spent, words=cost(spent),
        )  # fmt: skip

    def article(self, n: int, *, source: bool = True, diffs: bool = True) -> str:
        shown = article(self.following, self.rows, self.about, self.sources, n, diffs=diffs)
        return _template("_submission.html.j2").render(
            a=shown, rows=self.rows, site=self.site, library=self.sources.library, with_source=source, page=self,
            ledger=self.following.ledger, run=self.following.run, default=self.default, diffs=diffs,
        )  # fmt: skip

    @property
    def default(self) -> int | None:
        """The submission that is open when none is asked for."""
        if self.rows.best is not None:
            return self.rows.best.n
        return self.rows.submissions[-1].n if self.rows.submissions else None


def standalone(page: Page) -> str:
    """The self-contained page."""
    every = [row.n for row in page.rows.submissions]
    lines = {n: page.sources.lines(n) for n in every}
    table = [Markup(page.table_row(row)) for row in page.rows.submissions]
    sections = page.sections()
    whole = len(every) <= WHOLE
    left = BUDGET - sum(map(len, table)) - 200 * len(every) - 100_000
    packed_sources = pack.sources(page.sources.library.html, lines)
    left -= len(packed_sources.data)
    shown: dict[int, str] = {}
    packed: dict[int, str] = {}
    for n in _importance(page):
        text = page.article(n, source=False, diffs=whole)
        # What cannot stand in the page is compressed to a tenth of its size at most.
        if len(packed) == 0 and left > len(text.encode()):
            left -= len(text.encode())
            shown[n] = text
        else:
            packed[n] = text
    for n in _importance(page):
        if n in shown:
            text = page.article(n, source=True, diffs=whole)
            more = len(text.encode()) - len(shown[n].encode())
            if left > more:
                left -= more
                shown[n] = text
    return _template("page.html.j2").render(
        **sections, page=page, table=table, default=page.default,
        articles=[Markup(shown[n]) for n in sorted(shown)],
        packed=[*pack.articles(packed), packed_sources], modes=_modes(sections["chart"]),
        **_assets("page.js", "packed.js"),
    )  # fmt: skip


def served(page: Page, *, live: bool, nonce: str) -> str:
    """The same page on a server, which is asked for submissions one by one."""
    sections = page.sections()
    return _template("page.html.j2").render(
        **sections, page=page, table=[Markup(page.table_row(row)) for row in page.rows.submissions],
        default=page.default, articles=[Markup(page.article(page.default))] if page.default else [], packed=[],
        modes=_modes(sections["chart"]), seq=page.following.seq, following=live, nonce=nonce,
        **_assets("page.js", "live.js"),
    )  # fmt: skip


def parts(page: Page) -> dict[str, str]:
    """The sections that change while a run goes on, by the id of their element."""
    sections = page.sections()
    names = ("headline", "chart", "shapes", "failures", "search", "money", "believe")
    return {
        name: _template(f"_{name}.html.j2").render(**sections, page=page, default=page.default, modes=_modes(sections["chart"]))
        for name in names
    }  # fmt: skip


def render(name: str, **values: Any) -> str:
    """Another page of the same look."""
    return _template(name).render(**values, **_assets("page.js"))


def _importance(page: Page) -> list[int]:
    """Submissions in the order in which they deserve to be in the page itself."""
    shown = page.rows
    first = [mark.n for mark in reversed(shown.landmarks)] + [row.n for row in shown.top(10)]
    first += [failure.submissions[0] for failure in shown.failures[:10]]
    first += [row.n for row in shown.submissions if row.improved]
    return list(dict.fromkeys([*first, *(row.n for row in shown.submissions)]))


def _modes(chart: charts.Chart) -> Markup:
    return pack.inline({
        mode.key: {
            "x": mode.xs, "ticks": mode.ticks, "path": mode.path,
            "labels": {label.n: [label.x, label.shift, label.y] for label in mode.labels},
        }
        for mode in chart.modes
    })  # fmt: skip


def _assets(*scripts: str) -> dict[str, Any]:
    """Style and script as they stand in files, with the hashes that a content security policy allows them by."""
    css = _asset("page.css")
    js = "".join(_asset(name) for name in scripts)
    return {"css": Markup(css), "js": Markup(js), "css_hash": _hash(css), "js_hash": _hash(js)}


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    environment.filters.update(
        percent=percent, duration=duration, line=line, plain=plain, headline=headline, quantity=quantity, short=_short,
        word=lambda status: WORDS.get(status, status), code=_code,
    )  # fmt: skip
    environment.globals.update(score=charts.score, look=charts.look)
    return environment


def quantity(value: Quantity | None, scale: float = 1.0, digits: int | None = None) -> Markup:
    """A number, with its interval where there is one."""
    if value is None:
        return Markup("")

    def text(number: float) -> str:
        number *= scale
        places = digits if digits is not None else 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
        return f"{number:,.{places}f}"

    shown = escape(text(value.value))
    if value.low is None or value.high is None:
        return shown
    return shown + Markup(' <small class="interval">{} to {}</small>').format(text(value.low), text(value.high))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _code(library: Library, lines: Sequence[int]) -> Markup:
    """Highlighted lines: the library has escaped them."""
    return Markup("\n".join(library.html[number] for number in lines))

