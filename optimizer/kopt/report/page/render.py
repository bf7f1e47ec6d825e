"""From a run to its page: everything that is shown, put into templates. Autoescaped throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kopt.records import Verdict
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
from kopt.report.page.templates import assets, render
from kopt.report.rows import Rows, rows
from kopt.report.task import About
from kopt.report.terminal import OF
from kopt.report.verdicts import verdict

END = "</article>\n"
"""Of a submission, whose source may be left to a script."""


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
        return render(
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
        return render(
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


def served(page: Page, *, nonce: str, live: bool, open: int | None = None) -> str:
    """The same page on a server, which is asked for submissions one by one; `open` is the one to begin with."""
    sections = page.sections()
    shown = open if open in page.following.run.entries else page.default
    return render(
        "page.html.j2",
        **sections,
        page=page,
        table=table(page.rows, page.following.ledger, page.sources),
        default=shown,
        articles=[Markup(page.article(shown, open=True))] if shown else [],
        packed=[],
        modes=layouts(sections["chart"]),
        brief=False,
        seq=page.following.seq,
        live=live,
        nonce=nonce,
        **assets("page.js", "live.js"),
    )


def parts(page: Page) -> dict[str, str]:
    """The sections that change while a run goes on, by the id of their element."""
    sections = page.sections()
    names = ("headline", "chart", "shapes", "failures", "lessons", "search", "money", "believe")
    modes = layouts(sections["chart"])
    return {name: render(f"_{name}.html.j2", **sections, modes=modes) for name in names}


def table_rows(page: Page, only: Sequence[int]) -> str:
    """Rows of the table for some submissions."""
    return render("_rows.html.j2", table=table(page.rows, page.following.ledger, page.sources, only), site=page.site)


def layouts(chart: charts.Chart) -> Markup:
    return pack.inline({
        mode.key: {
            "x": mode.xs, "ticks": mode.ticks, "path": mode.path,
            "labels": {label.n: [label.x, label.shift, label.y] for label in mode.labels},
        }
        for mode in chart.modes
    })  # fmt: skip
