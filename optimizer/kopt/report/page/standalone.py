"""The page as one file: what stands in it as it is, what is compressed, and what is left to `kopt show`."""

from __future__ import annotations

from markupsafe import Markup

from kopt.report.page import pack
from kopt.report.page.render import END, Page, layouts
from kopt.report.page.table import table
from kopt.report.page.templates import assets, render

BUDGET = 1_480_000
"""Bytes of a page up to which submissions stand in it as they are; the rest is compressed and opened by script."""
COMPRESSED = 0.12
"""What compression and base64 leave of a submission, at most."""
HOLE = "<!-- submissions -->"
BLOCK = Markup('<script type="application/x-kopt" id="{id}" data-first="{first}" data-last="{last}">{data}</script>\n')
WHOLE = 400
"""So many submissions are in the page with all that is known; of others it has the source and what the row says."""


def standalone(page: Page) -> str:
    """The self-contained page."""
    every = [row.n for row in page.rows.submissions]
    lines = {n: page.sources.lines(n) for n in every}
    submissions = table(page.rows, page.following.ledger, page.sources)
    sections = page.sections()
    sources = pack.sources(page.sources.library.html, lines)
    # The list of submissions is written last, when it is known how much room the rest leaves.
    empty: str = render(
        "page.html.j2",
        **sections,
        page=page,
        table=submissions,
        default=page.default,
        articles=[Markup(HOLE)],
        packed=[sources],
        modes=layouts(sections["chart"]),
        brief=len(every) > WHOLE,
        **assets("page.js", "packed.js"),
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


def _importance(page: Page) -> list[int]:
    """Submissions in the order in which they deserve to be in the page itself."""
    shown = page.rows
    first = [mark.n for mark in reversed(shown.landmarks)] + [row.n for row in shown.top(10)]
    first += [failure.submissions[0] for failure in shown.failures[:10]]
    first += [row.n for row in shown.submissions if row.improved]
    return list(dict.fromkeys([*first, *(row.n for row in shown.submissions)]))
