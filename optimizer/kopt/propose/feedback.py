"""What a model is told about a submission: short and selected, because a full dump of metrics makes models worse.

Pure functions of a run and a verdict; the words are in briefs/feedback.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kopt.machine.products import product
from kopt.propose.limits import limit
from kopt.propose.templates import clip, fence, render
from kopt.records import Evidence, Finding, Parameters, Status, Verdict
from kopt.run import Entry, Run
from kopt.text import headline, line

FINDINGS = 3
"""Failures shown of one verdict: they tend to have one cause."""
AROUND = 5
"""Attempts shown that started from the same parent."""
LOOK_BACK = 400
"""How many submissions back these are looked for: the cost of a step must not grow with the run."""


class Tuned(NamedTuple):
    """What the tuner found for a submission."""

    trials: int
    best: Parameters | None
    """None when no point beat the submission itself."""
    score: float | None
    importance: Mapping[str, float]
    promoted: int | None
    """Number of the submission that the best point became, if it gained enough."""


def feedback(
    run: Run, n: int, verdict: Verdict, *, duplicate: bool = False, tuned: Tuned | None = None
) -> str:  # fmt: skip
    """The answer to `evaluate`."""
    entry = run.entries.get(n)
    return render(
        "feedback",
        n=n,
        status=str(verdict.status).replace("_", " "),
        duplicate=_duplicate(entry) if duplicate and entry else "",
        failure=failure(verdict),
        score=score(run, verdict, n),
        limit=limit_text(verdict),
        roofline=distance(run),
        tuning=tuning(tuned) if tuned else "",
        around=around(run, entry) if entry else "",
    )


def screened(verdict: Verdict) -> str:
    """The answer to `screen`."""
    return render(
        "screened",
        status=str(verdict.status).replace("_", " "),
        failure=failure(verdict),
        score=_shapes(verdict),
        limit=limit_text(verdict),
    )


def failure(verdict: Verdict) -> str:
    """What failed, where and by how much; "" for a passed verdict without warnings."""
    decisive = [f for f in verdict.findings if f.status is not None]
    warnings = [f for f in verdict.findings if f.status is None]
    lines = [_finding(f) for f in decisive[:FINDINGS]]
    if len(decisive) > FINDINGS:
        lines.append(f"- and {len(decisive) - FINDINGS} more like these")
    lines += [f"- warning: {line(str(f), 240)}" for f in warnings[:FINDINGS]]
    stages = [f"{s.stage} ({line(_why(s.facts), 120)})" for s in verdict.stages if s.outcome == "unavailable"]
    if stages:
        lines.append(f"- could not be checked here: {', '.join(stages)}")
    return "\n".join(lines)


def score(run: Run, verdict: Verdict, n: int) -> str:
    """The score beside the best one's, then the shapes."""
    if verdict.score is None:
        return "" if not verdict.passed else "It has no score: a timing shape has no number.\n" + _shapes(verdict)
    best = run.incumbent
    text = f"Score {percent(verdict.score)} of the {_peak(run)}, {verdict.evidence}."
    if best is not None and best.n == n:
        before = run.best[-2] if len(run.best) > 1 else None
        text += " The best so far." if before is None else f" The best so far; before it {_short(before)}."
    elif best is not None and best.score:
        text += f" The best is {_short(best)}: this one is at {verdict.score / best.score:.1%} of it."
    return f"{text}\n{_shapes(verdict)}"


def limit_text(verdict: Verdict) -> str:
    found = limit(verdict)
    if found is None:
        return ""
    return f"What binds, as modelled: {found}.\n" + "\n".join(f"- {fact}" for fact in found.facts)


def distance(run: Run) -> str:
    """How far the best one is from the roofline."""
    best = run.incumbent
    if best is None or best.score is None:
        return ""
    return (
        f"The best one leaves {percent(1 - best.score)} of the {_peak(run)} unused "
        f"({best.evidence}, {product(run.meta.target).name})."
    )


def tuning(tuned: Tuned) -> str:
    if not tuned.trials:
        return "Its TUNE space was not tried: the trials of this run are spent, or the space holds one point."
    text = f"TUNE: {tuned.trials} points tried. "
    if tuned.best is None:
        text += "None beats the defaults."
    else:
        text += f"Best {parameters(tuned.best)} with {percent(tuned.score or 0.0)}"
        text += f", recorded as submission {tuned.promoted}." if tuned.promoted else "; too small a gain to record."
    if tuned.importance:
        ranked = sorted(tuned.importance.items(), key=lambda item: -item[1])
        text += " What the score depends on: " + ", ".join(f"{k} {v:.0%}" for k, v in ranked if v >= 0.01) + "."
    return text


def around(run: Run, entry: Entry) -> str:
    """What else was tried from the same parent and did not help."""
    parent = entry.submission.parent
    if parent is None or parent not in run.entries:
        return ""
    base = run.entries[parent].score or 0.0
    tried = [
        sibling
        for i in range(entry.n - 1, max(0, entry.n - LOOK_BACK), -1)
        if (sibling := run.entries.get(i)) is not None
        and sibling.submission.parent == parent
        and (sibling.score is None or sibling.score <= base)
    ][:AROUND]
    if not tried:
        return ""
    return f"Tried from submission {parent} before, without gain:\n" + "\n".join(f"- {_short(e)}" for e in tried)


def entry_line(entry: Entry) -> str:
    """One submission as a line of a list."""
    note = line(entry.submission.note, 110) or entry.submission.origin
    parent = f" (from {entry.submission.parent})" if entry.submission.parent else ""
    if entry.status is None:
        return f"- {entry.n}{parent}: pending: {note}"
    if entry.status is Status.PASSED:
        number = percent(entry.score) if entry.score is not None else "no score"
        return f"- {entry.n}{parent}: {number}: {note}"
    return f"- {entry.n}{parent}: {str(entry.status).replace('_', ' ')}: {note} [{line(entry.reason, 120)}]"


def percent(value: float) -> str:
    return f"{value:.1%}"


def parameters(values: Parameters) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "the defaults"


def _finding(finding: Finding) -> str:
    text = f"- {finding.rule}: {line(str(finding), 400)}"
    numbers = [
        f"{name} {line(value, 60)}"
        for name, value in (("got", finding.got), ("want", finding.want), ("bound", finding.bound))
        if value
    ]
    if numbers:
        text += f" ({', '.join(numbers)})"
    if len(str(finding)) > 400:
        # A compiler's message: its own lines say more than one long one.
        text = f"- {finding.rule}:\n{fence(clip(str(finding), 1200), 'text')}"
    return text


def _why(facts: Mapping[str, object]) -> str:
    return str(facts.get("reason") or facts.get("why") or "not possible on this machine")


def _shapes(verdict: Verdict) -> str:
    if verdict.evidence is Evidence.MEASURED:
        return "\n".join(
            f"- {m.shape}, {m.regime}: {m.host_us.value:.1f} us, "
            f"{percent(m.utilization.value) if m.utilization else 'utilization unknown'}"
            for m in verdict.measurements
        )
    return "\n".join(
        f"- {p.shape}: {p.us:.0f} us modelled"
        + (f", {percent(p.utilization)} of peak" if p.utilization is not None else "")
        + (f", bound by {p.bound}" if p.bound else "")
        for p in verdict.predictions
    )


def _peak(run: Run) -> str:
    return "roofline" if run.meta.metric == "roofline" else "peak"


def _short(entry: Entry) -> str:
    what = percent(entry.score) if entry.score is not None else str(entry.status or "pending").replace("_", " ")
    return f"submission {entry.n}, {what}: {headline(entry.submission.note, 80) or entry.submission.origin}"


def _duplicate(entry: Entry) -> str:
    return (
        f"This does what submission {entry.n} does ({headline(entry.submission.note, 80)}): it was not evaluated again "
        f"and is not recorded. What it got:"
    )


def changed(defaults: Parameters, pinned: Parameters) -> str:
    """What differs from the defaults, in words: "BLOCK_N 128 -> 256, NUM_WARPS 4 -> 8"."""
    parts = [f"{k} {defaults.get(k, '?')} -> {v}" for k, v in pinned.items() if defaults.get(k) != v]
    return ", ".join(parts) or "the defaults"


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
