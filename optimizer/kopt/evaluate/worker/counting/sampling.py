"""Which programs of a grid are looked at, and what is concluded from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from kopt.evaluate.worker.counting.tally import PROGRAM, Span, Tally, Work

EXACT = 3
"""Programs that are always run; when they agree, the launch is uniform."""
MOST = 24
"""Programs that are looked at, lightly, when they do not."""
PROBED = 1024
"""Programs whose loops' lengths are asked for, at most, when these differ."""
ALIKE = 64
"""Programs after which the others are taken to be like them."""
WHOLE = 48
"""Neighbours that are run for what they share, where no loop repeats it."""
_GOLDEN = 0.6180339887498949


def spread_out(programs: int, most: int = MOST) -> list[int]:
    """Program numbers from the middle outwards at irrational steps: no period of the grid can hide from them."""
    picks = dict.fromkeys(int(((i + 0.5) * _GOLDEN) % 1.0 * programs) for i in range(most))
    return list(dict.fromkeys((programs // 2, programs - 1, *picks)))


def strata(lengths: dict[int, dict[Span, int]]) -> list[list[int]]:
    """Programs, by number, in at most MOST groups whose outermost loops are alike in length."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, found in lengths.items():
        groups[sum(found.values()), *sorted(found.items())].append(index)
    ordered = [groups[key] for key in sorted(groups)]
    if len(ordered) <= MOST:
        return ordered
    merged: list[list[int]] = [[]]
    for group in ordered:  # neighbours in length share a group until it has its part of the programs
        if len(merged[-1]) * MOST >= len(lengths) and len(merged) < MOST:
            merged.append([])
        merged[-1] += group
    return merged


def representatives(groups: list[list[int]]) -> dict[int, float]:
    """Programs to look at and the share of all that each stands for: at least one of each group, MOST and few more."""
    total = sum(map(len, groups))
    chosen: dict[int, float] = {}
    for group in groups:
        count = min(len(group), max(1, round(MOST * len(group) / total)))
        for i in range(count):
            chosen[group[(2 * i + 1) * len(group) // (2 * count)]] = len(group) / total / count
    return chosen


def hottest(tallies: list[Tally]) -> Span | None:
    """The loop that loads at least half of what the busiest program loads."""
    tally = max(tallies, key=_loaded)
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


def stores(tallies: list[Tally]) -> set[str]:
    """Names of the buffers that were written to."""
    return {name for t in tallies for work in t.work.values() for name, way, _ in work.traffic if way != "load"}


class Neighbours:
    """What programs that run at the same time share of what they load."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loaded: Counter[str] = Counter()
        self._tiles: dict[str, dict[Any, Any]] = {}
        self._lengths: list[dict[Span, int]] = []

    def add(self, index: int, tally: Tally) -> None:
        """The next neighbour, whose tally kept a window."""
        self._lengths.append(tally.lengths)
        self._loaded.update(tally.window_sum)
        for name, found in (tally.window or {}).items():
            mine = self._tiles.setdefault(name, {})
            for key, ids in found.items():
                mine[(index, *key) if key[1] < 0 else key] = ids

    def found(self) -> dict[str, Any]:
        """By buffer: distinct over loaded sectors."""
        distinct = {n: int(np.unique(np.concatenate(list(tiles.values()))).size) for n, tiles in self._tiles.items()}
        unknown = {name for name, tiles in self._tiles.items() if any(len(key) > 3 for key in tiles)}
        shared = {name: 1.0 if name in unknown else distinct[name] / self._loaded[name] for name in distinct}
        return {"programs": len(self._lengths), "of": self._size, "reuse": shared, "lengths": self._lengths}


def summary(
    programs: int,
    tallies: list[Tally],
    light: list[Tally],
    window: dict[str, Any],
    shares: list[float] | None = None,
) -> dict[str, Any]:
    """The record of one launch: means over the sampled programs, loop by loop.

    `shares` say what part of the launch each of them stands for; equal parts where none are given.
    """
    everyone = tallies + light
    weights = shares or [1.0] * len(everyone)
    whole = 1.0 if shares else float(len(everyone))
    spans = sorted({span for tally in everyone for span in tally.work})
    branches: defaultdict[tuple[Span, Span], float] = defaultdict(float)
    for tally, weight in zip(everyone, weights, strict=True):
        for key, times in tally.spans.items():
            branches[key] += times * weight
    load = [t.flops() or t.bytes() or t.elements() or 1.0 for t in everyone]
    mean = float(np.dot(load, weights)) / whole
    cv = float(np.sqrt(np.dot(np.square(np.array(load) - mean), weights) / whole)) / mean
    return {
        "programs": programs,
        "sampled": len(everyone),
        "loops": [
            _loop(span, [(w, t.work[span]) for t, w in zip(everyone, weights, strict=True) if span in t.work],
                  whole, window["reuse"])
            for span in spans
        ],
        "spans": [[*span, times / whole, *inside] for (span, inside), times in sorted(branches.items())],
        "stores": sorted(stores(everyone)),
        "work": window.get("spread", {"max": max(1.0, max(load) / mean), "cv": cv}),
        "window": {"programs": window["programs"], "of": window["of"]},
        "complete": not light and not any(t.truncated for t in tallies),
        "warnings": sorted(set().union(*(t.warnings for t in everyone))),
    }  # fmt: skip


def _loop(span: Span, works: list[tuple[float, Work]], whole: float, reuse: dict[str, float]) -> dict[str, Any]:
    mma: defaultdict[Any, float] = defaultdict(float)
    operations: defaultdict[str, float] = defaultdict(float)
    traffic: dict[Any, list[float]] = {}
    for share, work in works:
        for tile, count in work.mma.items():
            mma[tile] += share * count
        for kind, elements in work.operations.items():
            operations[kind] += share * elements
        for route, amount in work.traffic.items():
            sums = traffic.setdefault(route, [0.0] * 5)
            sums[:] = [a + share * b for a, b in zip(sums, amount, strict=True)]
    return {
        "lines": list(span),
        "executions": sum(share * work.executions for share, work in works) / whole,
        "mma": [
            {"a": a, "b": b, "m": m, "n": n, "k": k, "count": c / whole} for (a, b, m, n, k), c in sorted(mma.items())
        ],
        "operations": {kind: elements / whole for kind, elements in sorted(operations.items())},
        "traffic": [
            {
                "buffer": name, "direction": direction, "feed": feed, "requests": amount[0] / whole,
                "bytes": amount[1] / whole, "sectors": amount[2] / whole, "lines": amount[3] / whole,
                "most": amount[4] / whole,
                "reuse": reuse.get(name, 1.0) if direction == "load" else 1.0,
            }
            for (name, direction, feed), amount in sorted(traffic.items())
        ],
    }  # fmt: skip
