"""From a run to its page: everything that is shown, put into templates. Autoescaped throughout."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kopt.records import Quantity, Verdict
from kopt.report.highlight import Library
from kopt.report.ledger import Following
from kopt.report.page import chart as charts
from kopt.report.page import pack
from kopt.report.page.believe import believe
from kopt.report.page.money import money
from kopt.report.page.roofline import roofline
from kopt.report.page.search import account, tuned
from kopt.report.page.shapes import shape_rows, vendor
from kopt.report.page.submission import Sources, article
from kopt.report.page.table import table
from kopt.report.rows import Rows, rows
from kopt.report.task import About
from kopt.report.terminal import OF
from kopt.report.verdicts import verdict
from kopt.text import duration, headline, line, percent, plain

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"

BUDGET = 1_480_000
"""Bytes of a page up to which submissions stand in it as they are; the rest is compressed and opened by script."""
COMPRESSED = 0.12
"""What compression and base64 leave of a submission, at most."""
END = "</article>\n"
HOLE = "<!-- submissions -->"
BLOCK = Markup('<script type="application/x-kopt" id="{id}" data-first="{first}" data-last="{last}">{data}</script>\n')
WHOLE = 400
"""So many submissions are in the page with all that is known; of others it has the source and what the row says."""
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

    def __init__(
        self, following: Following, about: About, site: Site | None = None, sources: Sources | None = None
    ) -> None:
        self.following, self.about, self.site = following, about, site or Site()
        self.rows: Rows = rows(following.run)
        self.sources = sources or Sources.of(following.run)

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
            "tuned": tuned(run, ledger), "account": account(ledger),
        }  # fmt: skip

    def verdict(self, n: int) -> Verdict | None:
        return verdict(self.following.run, n)

    def article(self, n: int, *, open: bool = False) -> str:
        """One submission, whole; `open` shows it at once."""
        return f"{self.body(n, diffs=True, open=open)}{self.source(n, whole=True, open=open)}{END}"

    def body(self, n: int, *, diffs: bool, open: bool = False) -> str:
        """All but the source; without `diffs`, a script of the page fills them in."""
        shown = article(self.following, self.rows, self.about, self.sources, n, diffs=diffs)
        return _render(
            "_submission.html.j2",
            a=shown,
            rows=self.rows,
            site=self.site,
            library=self.sources.library,
            ledger=self.following.ledger,
            open=open,
            diffs=diffs,
        )

    def source(self, n: int, *, whole: bool, open: bool = False) -> str:
        """The end of an article; not `whole`, a script of the page fills it in."""
        lines, first = self.sources.lines(n), self.sources.first(n)
        return _render(
            "_source.html.j2",
            n=n,
            lines=lines,
            same_as=first if first != n else None,
            library=self.sources.library,
            with_source=whole,
            run=self.following.run,
            file=f"sources/{self.following.run.entry(n).submission.file}",
            open=open,
        )

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
    submissions = table(page.rows, page.following.ledger, page.sources)
    sections = page.sections()
    sources = pack.sources(page.sources.library.html, lines)
    # The list of submissions is written last, when it is known how much room the rest leaves.
    empty: str = _render(
        "page.html.j2",
        **sections,
        page=page,
        table=submissions,
        default=page.default,
        articles=[Markup(HOLE)],
        packed=[sources],
        modes=_modes(sections["chart"]),
        brief=len(every) > WHOLE,
        **_assets("page.js", "packed.js"),
    )
    shown, packed = _articles(page, BUDGET - len(empty.encode()))
    before, _, after = empty.partition(HOLE)
    blocks = [str(BLOCK.format(**block._asdict())) for block in pack.articles(packed)]
    return "".join([before, *(shown[n] for n in sorted(shown)), *blocks, after])


def _articles(page: Page, room: int) -> tuple[dict[int, str], dict[int, str]]:
    """Submissions that stand in the page and those that are compressed. The most telling ones get the room first, and
    their sources last: what happened matters more than how it was written.
    """
    order = _importance(page)
    diffs = len(order) <= WHOLE
    order = order[:WHOLE]
    light = {n: (page.body(n, diffs=diffs, open=n == page.default), page.source(n, whole=False) + END) for n in order}
    sizes = {n: len(body.encode()) + len(source) for n, (body, source) in light.items()}
    room -= round(COMPRESSED * sum(sizes.values()))
    shown = {}
    for n in order:
        if (more := round((1 - COMPRESSED) * sizes[n])) > room:
            break
        room -= more
        shown[n] = "".join(light[n])
    for n in shown:
        body, source = light[n]
        text = page.source(n, whole=True, open=n == page.default) + END
        if (more := len(text.encode()) - len(source)) <= room:
            room -= more
            shown[n] = body + text
    return shown, {n: "".join(light[n]) for n in order if n not in shown}


def served(page: Page, *, nonce: str, live: bool, open: int | None = None) -> str:
    """The same page on a server, which is asked for submissions one by one; `open` is the one to begin with."""
    sections = page.sections()
    shown = open if open in page.following.run.entries else page.default
    return _render(
        "page.html.j2",
        **sections,
        page=page,
        table=table(page.rows, page.following.ledger, page.sources),
        default=shown,
        articles=[Markup(page.article(shown, open=True))] if shown else [],
        packed=[],
        modes=_modes(sections["chart"]),
        brief=False,
        seq=page.following.seq,
        live=live,
        nonce=nonce,
        **_assets("page.js", "live.js"),
    )


def parts(page: Page) -> dict[str, str]:
    """The sections that change while a run goes on, by the id of their element."""
    sections = page.sections()
    names = ("headline", "chart", "shapes", "failures", "search", "money", "believe")
    modes = _modes(sections["chart"])
    return {name: _render(f"_{name}.html.j2", **sections, modes=modes) for name in names}


def table_rows(page: Page, only: Sequence[int]) -> str:
    """Rows of the table for some submissions."""
    return _render("_rows.html.j2", table=table(page.rows, page.following.ledger, page.sources, only), site=page.site)


def css_hash() -> str:
    return _hash(_asset("page.css"))


def render(name: str, **values: Any) -> str:
    """Another page of the same look."""
    return _render(name, **values, **_assets("page.js"))


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


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kopt" / "templates"
    kept = None
    with contextlib.suppress(OSError, RuntimeError):  # compiling anew costs a few tenths of a second
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = FileSystemBytecodeCache(str(cache)) if os.access(cache, os.W_OK) else None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=kept,
    )
    environment.filters.update(
        percent=percent,
        duration=duration,
        line=line,
        plain=plain,
        headline=headline,
        quantity=quantity,
        short=_short,
        word=lambda status: WORDS.get(status, status),
        code=_code,
    )
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
