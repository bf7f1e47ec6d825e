"""What the tuner found out: slices of the tuned parameters, how much each matters, and predictions held to account."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from kopt.records import Status
from kopt.report.ledger import Ledger
from kopt.report.page.scale import Axis, Tick, decades, short, steps
from kopt.run import Entry, Run, TrialRow
from kopt.text import line, percent

HEIGHT = 120
ENOUGH = 8
"""Trials from which on the importance of a parameter is worth a number."""
FAMILIES, TELLING, DOTS = 8, 2, 300
"""At most so many tuned submissions, of them shown at once, and dots in one slice."""


class Slice(NamedTuple):
    """Scores by the choices of one parameter."""

    name: str
    choices: list[Tick]
    dots: list[tuple[float, float, str]]
    """Percent, pixels, words."""
    best: str
    importance: float | None


class Tuned(NamedTuple):
    """One submission whose parameters were tried."""

    n: int
    words: str
    trials: int
    passed: int
    pruned: str
    best: float | None
    evidence: str
    at: str
    """The best point."""
    slices: list[Slice]
    yticks: list[Tick]
    height: float
    weighed: bool
    """Whether there were enough trials to say which parameter matters."""
    telling: bool = False
    """Whether it is shown at once: it came to one of the best scores."""


class Account(NamedTuple):
    """Predicted against measured times."""

    height: float
    dots: list[tuple[int, float, float, str]]
    path: str
    """Where both are equal, in a box 1000 wide."""
    xticks: list[Tick]
    yticks: list[Tick]
    ratio: float
    """Median of measured over predicted."""
    spread: float
    """Median distance from that, as a fraction."""
    rank: float | None
    """Spearman's correlation of the two, within shapes, on average."""


def tuned(run: Run, ledger: Ledger) -> list[Tuned]:
    """The submissions with the most trials, in their order."""
    entries = sorted((e for e in run if e.trials), key=lambda e: (-len(e.trials), -(e.score or 0.0)))[:FAMILIES]
    telling = {e.n for e in sorted(entries, key=lambda e: (not e.rank[0], -e.rank[1]))[:TELLING]}
    found = [_tuned(entry, *comparable(entry, ledger)) for entry in sorted(entries, key=lambda e: e.n)]
    return [one._replace(telling=one.n in telling) for one in found]


def comparable(entry: Entry, ledger: Ledger) -> tuple[str, list[TrialRow]]:
    """The trials with a score of one kind of evidence, and which: measured ones where there are any."""
    scored = [row for row in entry.trials if row.status is Status.PASSED and row.score is not None]
    kinds = {row.n: ledger.trials.get((entry.n, row.n), "") for row in scored}
    evidence = next((kind for kind in ("measured", "modelled") if kind in kinds.values()), "")
    return evidence, [row for row in scored if kinds[row.n] == evidence]


def importance(scored: Sequence[TrialRow]) -> dict[str, float]:
    """Share of the scores' variance that goes with each parameter alone; {} with too little to go by.

    The first-order term of a functional ANOVA, corrected for the share that chance groups would explain (epsilon
    squared, Kelley 1935). What parameters do together is in none of them, so the shares need not add up to 1.
    """
    scores = [row.score or 0.0 for row in scored]
    if len(scored) < ENOUGH:
        return {}
    mean = sum(scores) / len(scores)
    total = sum((s - mean) ** 2 for s in scores)
    if total <= 0:
        return {}
    found = {}
    for name in _varied(scored):
        groups: dict[Hashable, list[float]] = {}
        for row, score in zip(scored, scores, strict=True):
            groups.setdefault(_choice(row, name), []).append(score)
        within = sum(sum((s - sum(g) / len(g)) ** 2 for s in g) for g in groups.values())
        freedom = len(scores) - len(groups)
        if freedom > 0:
            found[name] = max(0.0, (total - within - (len(groups) - 1) * within / freedom) / total)
    return found


def account(ledger: Ledger) -> Account | None:
    """None while nothing was measured."""
    pairs = ledger.pairs
    if not pairs:
        return None
    low, high = min(min(p.predicted, p.measured) for p in pairs), max(max(p.predicted, p.measured) for p in pairs)
    x, y = Axis(low / 1.3, high * 1.3, 100, log=True), Axis(low / 1.3, high * 1.3, 2 * HEIGHT, log=True)
    dots = [
        (p.n, x.at(p.predicted), y.down(p.measured),
         f"#{p.n}, {p.shape}: predicted {p.predicted:,.1f} us, measured {p.measured:,.1f} us")
        for p in pairs[-DOTS:]
    ]  # fmt: skip
    ratios = [p.measured / p.predicted for p in pairs]
    middle = median(ratios)
    return Account(
        2 * HEIGHT, dots, f"M0 {2 * HEIGHT}L1000 0", [Tick(x.at(v), short(v)) for v in decades(x.low, x.high)],
        [Tick(y.down(v), short(v)) for v in decades(y.low, y.high)], middle,
        median(abs(r / middle - 1) for r in ratios),
        _rank((p.shape, p.predicted, p.measured) for p in pairs),
    )  # fmt: skip


def _tuned(entry: Entry, evidence: str, scored: Sequence[TrialRow]) -> Tuned:
    trials = entry.trials
    best = max(scored, key=lambda row: row.score or 0.0, default=None)
    weights = importance(scored)
    top = max((row.score or 0.0 for row in scored), default=0.01) * 1.05 or 0.01
    axis = Axis(0, top, HEIGHT)
    names = sorted(_varied(scored), key=lambda name: -weights.get(name, 0.0))
    failed = len(trials) - len(scored)
    return Tuned(
        entry.n, line(entry.submission.note, 90) or entry.submission.origin, len(trials), len(scored),
        f"{failed} without a {evidence} score" if failed else "", best.score if best else None,
        evidence, parameters(best.parameters.items()) if best else "",
        [_slice(name, scored, axis, weights.get(name), best) for name in names] if scored else [],
        [Tick(axis.down(v), f"{short(100 * v)} %") for v in steps(0, axis.high, 3)], HEIGHT, bool(weights),
    )  # fmt: skip


def parameters(items: Iterable[tuple[str, object]]) -> str:
    """ "BLOCK_M=128, NUM_WARPS=8"."""
    return ", ".join(f"{line(str(k), 40)}={line(str(v), 40)}" for k, v in items)


def _slice(name: str, scored: Sequence[TrialRow], axis: Axis, weight: float | None, best: TrialRow | None) -> Slice:
    shown = {_choice(row, name): line(str(row.parameters[name]), 12) for row in scored}
    choices = sorted(shown, key=lambda c: (isinstance(c, str), c))
    at = {choice: round(100 * (i + 0.5) / len(choices), 2) for i, choice in enumerate(choices)}
    dots = []
    for row in scored[-DOTS:]:
        choice = _choice(row, name)
        dots.append((at[choice], axis.down(row.score or 0.0), f"trial {row.n}: {shown[choice]}, {percent(row.score)}"))
    words = [Tick(at[choice], shown[choice]) for choice in choices]
    return Slice(name, words, dots, line(str(best.parameters[name]), 20) if best else "", weight)


def _choice(row: TrialRow, name: str) -> str | float:
    value = row.parameters[name]
    return value if isinstance(value, str) else float(value)


def _varied(trials: Sequence[TrialRow]) -> list[str]:
    """Parameters that all trials have and that took more than one value."""
    if not trials:
        return []
    shared = [name for name in trials[0].parameters if all(name in row.parameters for row in trials)]
    return [name for name in shared if len({_choice(row, name) for row in trials}) > 1]


def _rank(triples: Iterable[tuple[str, float, float]]) -> float | None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for shape, predicted, measured in triples:
        groups.setdefault(shape, []).append((predicted, measured))
    found = [_spearman(group) for group in groups.values() if len(group) >= ENOUGH]
    return sum(found) / len(found) if found else None


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    a, b = _ranks([p for p, _ in pairs]), _ranks([m for _, m in pairs])
    mean = (len(pairs) - 1) / 2
    cov = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    var = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return cov / var if var else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Mean rank of equal values."""
    order = sorted(values)
    first = {value: i for i, value in reversed(list(enumerate(order)))}
    last = {value: i for i, value in enumerate(order)}
    return [(first[v] + last[v]) / 2 for v in values]
