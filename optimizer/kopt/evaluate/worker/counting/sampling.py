"""Which programs of a grid are looked at, and what is concluded from them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from kopt.evaluate.worker.counting.tally import PROGRAM, Span, Tally, Work

EXACT = 3
"""Programs that are always run; when they agree, the launch is uniform."""
MOST = 24
"""Programs that are looked at, lightly, when they do not."""
_GOLDEN = 0.6180339887498949


def spread_out(programs: int) -> list[int]:
    """Program numbers from the middle outwards at irrational steps: no period of the grid can hide from them."""
    picks = dict.fromkeys(int(((i + 0.5) * _GOLDEN) % 1.0 * programs) for i in range(MOST))
    return list(dict.fromkeys((programs // 2, programs - 1, *picks)))


def hottest(tally: Tally) -> Span | None:
    """The loop that loads at least half of what the program loads."""
    total = _loaded(tally)
    span, work = max(tally.work.items(), key=lambda item: item[1].loaded())
    return span if span != PROGRAM and total and work.loaded() >= 0.5 * total else None


def scale(tallies: list[Tally], window: dict[str, Any], programs: int) -> bool:
    """Correct the sampled programs for how long everyone's outermost loop is: persistent kernels, whose programs differ
    in the number of their tiles. False unless the window covered the whole grid and one such loop holds the work."""
    span, work = max(tallies[0].work.items(), key=lambda item: item[1].loaded())
    outer = next((s for s in tallies[0].lengths if s[0] <= span[0] and span[1] <= s[1]), None)
    if outer is None or window["programs"] < programs or work.loaded() < 0.9 * _loaded(tallies[0]):
        return False
    everyone = [found.get(outer, 0) for found in window["lengths"]]
    mean = sum(everyone) / len(everyone)
    for tally in tallies:
        factor = mean / max(tally.lengths.get(outer, 0), 1)
        for inner, amount in tally.work.items():
            if outer[0] <= inner[0] and inner[1] <= outer[1]:
                amount.scale(factor)
        for key in tally.spans:
            if outer[0] <= key[1][0] and key[1][1] <= outer[1]:
                tally.spans[key] *= factor
    window["spread"] = {"max": max(everyone) / mean, "cv": float(np.std(everyone)) / mean}
    return True


def _loaded(tally: Tally) -> float:
    return sum(work.loaded() for work in tally.work.values())


def summary(programs: int, tallies: list[Tally], light: list[Tally], window: dict[str, Any]) -> dict[str, Any]:
    """The record of one launch: means over the sampled programs, loop by loop."""
    everyone = tallies + light
    spans = sorted({span for tally in everyone for span in tally.work})
    works = [(span, [t.work[span] for t in everyone if span in t.work]) for span in spans]
    share = 1.0 / len(everyone)
    branches: defaultdict[tuple[Span, Span], float] = defaultdict(float)
    for tally in everyone:
        for key, times in tally.spans.items():
            branches[key] += times * share
    load = [t.flops() or t.bytes() or t.elements() or 1.0 for t in everyone]
    mean = sum(load) * share
    return {
        "programs": programs,
        "sampled": len(everyone),
        "loops": [_loop(span, found, share, window["reuse"]) for span, found in works],
        "spans": [[*span, times, *inside] for (span, inside), times in sorted(branches.items())],
        "stores": sorted({n for t in everyone for w in t.work.values() for n, d, _ in w.traffic if d != "load"}),
        "work": window.get("spread", {"max": max(load) / mean, "cv": float(np.std(load)) / mean}),
        "window": {"programs": window["programs"], "of": window["of"]},
        "complete": not light and not any(t.truncated for t in tallies),
        "warnings": sorted(set().union(*(t.warnings for t in everyone))),
    }


def _loop(span: Span, works: list[Work], share: float, reuse: dict[str, float]) -> dict[str, Any]:
    mma: defaultdict[Any, float] = defaultdict(float)
    operations: defaultdict[str, float] = defaultdict(float)
    traffic: dict[Any, list[float]] = {}
    for work in works:
        for tile, count in work.mma.items():
            mma[tile] += count
        for kind, elements in work.operations.items():
            operations[kind] += elements
        for route, amount in work.traffic.items():
            sums = traffic.setdefault(route, [0.0] * 4)
            sums[:] = [a + b for a, b in zip(sums, amount, strict=True)]
    return {
        "lines": list(span),
        "executions": sum(w.executions for w in works) * share,
        "mma": [
            {"a": a, "b": b, "m": m, "n": n, "k": k, "count": c * share} for (a, b, m, n, k), c in sorted(mma.items())
        ],
        "operations": {kind: elements * share for kind, elements in sorted(operations.items())},
        "traffic": [
            {
                "buffer": name, "direction": direction, "feed": feed, "requests": amount[0] * share,
                "bytes": amount[1] * share, "sectors": amount[2] * share, "lines": amount[3] * share,
                "reuse": reuse.get(name, 1.0) if direction == "load" else 1.0,
            }
            for (name, direction, feed), amount in sorted(traffic.items())
        ],
    }  # fmt: skip
