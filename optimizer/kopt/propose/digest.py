"""A run in under 8,000 tokens, however long it was: what a fresh episode needs to go on. A pure function of the run."""

from __future__ import annotations

from itertools import islice

from kopt.propose.feedback import bullets, entry_line, failure, feedback, limit_text, score
from kopt.propose.templates import clip, fence, render, tokens
from kopt.records import Status
from kopt.run import Entry, Run
from kopt.text import headline, line

TOKENS = 8000
SOURCE = 12_000
"""Characters of the best source that are shown; `read` gives the rest."""
RECENT = 12
"""Submissions listed as tried lately."""
TOP = 5
FAILURES = 400
"""Submissions back that failures are counted over."""
LESSONS = 20


def digest(run: Run) -> str:
    """Sections are cut one after another, the least needed first, until all fits."""
    for source, recent, lessons, rest in ((SOURCE, RECENT, LESSONS, 3000), (7000, 8, 10, 1500), (3000, 5, 5, 700)):
        text = _digest(run, source, recent, lessons, rest)
        if tokens(text) < TOKENS:
            return text
    return clip(text, 2 * TOKENS)


def _digest(run: Run, source: int, recent: int, lessons: int, rest: int) -> str:
    best = run.incumbent
    verdict = run.verdict(best.n) if best else None
    return render(
        "digest",
        state=_state(run),
        n=best.n if best else "",
        score=score(run, verdict, best.n) if best and verdict else "",
        limit=limit_text(verdict) if verdict else "",
        source=_source(run, best, source) if best else "",
        top=_top(run),
        tried=clip("\n".join(entry_line(e) for e in _latest(run, recent)), 2 * rest),
        failures=clip(_failures(run), rest),
        lessons=clip(bullets(line(text, 400) for text in _unique(run.lessons, lessons)), rest),
        handed=clip(_handed(run), rest),
        last=clip(_last(run), rest),
    )


def _state(run: Run) -> str:
    if not run.entries:
        return "Nothing was submitted yet."
    passed = run.statuses.get(Status.PASSED, 0)
    text = f"{len(run.entries)} submissions, {passed} of them passed"
    if run.incumbent:
        text += f"; the last gain was {run.stale} submissions ago" if run.stale else "; the last one was a gain"
    return text + "."


def _source(run: Run, best: Entry, limit: int) -> str:
    text = run.source(best.n)
    pinned = f"With parameters {dict(best.submission.parameters)}.\n\n" if best.submission.parameters else ""
    return pinned + fence(clip(text, limit))


def _top(run: Run) -> str:
    """The best of other structure than the best one, as far as notes tell: no two with the same first words."""
    shown: dict[str, Entry] = {}
    for entry in (e for e in list(run.top) if e is not run.incumbent):
        shown.setdefault(headline(entry.submission.note, 24).lower(), entry)
    return "\n".join(entry_line(e) for e in islice(shown.values(), TOP))


def _latest(run: Run, count: int) -> list[Entry]:
    last = len(run.entries)
    return [run.entries[n] for n in range(max(1, last - count + 1), last + 1)]


def _failures(run: Run) -> str:
    """Grouped by rule, the most frequent first."""
    groups: dict[str, list[Entry]] = {}
    last = len(run.entries)
    for n in range(max(1, last - FAILURES), last + 1):
        entry = run.entries[n]
        if entry.status not in (None, Status.PASSED):
            groups.setdefault(entry.rule or str(entry.status), []).append(entry)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))[:6]
    return bullets(f"{len(entries)} by {rule}, such as {entries[-1].n}: {line(entries[-1].reason, 160)}"
                   for rule, entries in ranked)  # fmt: skip


def _unique(texts: list[str], count: int) -> list[str]:
    """The latest, each once, in the order they were learnt."""
    latest = list(dict.fromkeys(reversed(texts[-10 * count :])))[:count]
    return latest[::-1]


def _handed(run: Run) -> str:
    ideas = list(run.dialogue.ideas)[-6:]
    text = run.dialogue.handed_over.strip()
    if ideas:
        text += "\n\nIdeas not yet tried, perhaps:\n" + bullets(line(idea, 300) for idea in ideas)
    return text


def _last(run: Run) -> str:
    """The latest submission's verdict, unless it is the best one's, which is shown already."""
    if not run.entries:
        return ""
    n = len(run.entries)
    verdict = run.verdict(n)
    if verdict is None or (run.incumbent and run.incumbent.n == n):
        return ""
    return feedback(run, n, verdict) if not verdict.passed else failure(verdict) + "\n" + score(run, verdict, n)
