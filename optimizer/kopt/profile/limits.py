"""From counters to what binds a kernel, and the three facts that say most about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kopt.records.base import Record

STALLS = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"

METRICS: Mapping[str, tuple[str, ...]] = {
    "us": ("gpu__time_duration.sum",),
    "tensor": (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    ),
    "dram": ("dram__throughput.avg.pct_of_peak_sustained_elapsed",),
    "l2": ("lts__throughput.avg.pct_of_peak_sustained_elapsed",),
    "l1": ("l1tex__throughput.avg.pct_of_peak_sustained_active",),
    "issue": ("smsp__issue_active.avg.pct_of_peak_sustained_active",),
    "read": ("dram__bytes_read.sum",),
    "written": ("dram__bytes_write.sum",),
    "l2_hits": ("lts__t_sector_hit_rate.pct",),
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "sm_active": ("sm__cycles_active.avg",),
    "sm_most": ("sm__cycles_active.max",),
    "registers": ("launch__registers_per_thread",),
    "waves": ("launch__waves_per_multiprocessor",),
    "long_scoreboard": (STALLS.format("long_scoreboard"),),
    "short_scoreboard": (STALLS.format("short_scoreboard"),),
    "gmma": (STALLS.format("gmma"),),
    "barrier": (STALLS.format("barrier"),),
    "wait": (STALLS.format("wait"),),
    "math_pipe": (STALLS.format("math_pipe_throttle"),),
    "mio": (STALLS.format("mio_throttle"),),
    "memory_pipe": (STALLS.format("lg_throttle"),),
    "sleeping": (STALLS.format("sleeping"),),
    "instructions": (STALLS.format("no_instruction"),),
}
"""What is asked for, by our name; of several names the first that the GPU has."""

UNITS = {
    "tensor": "the tensor pipes",
    "dram": "device memory",
    "l2": "the L2 cache",
    "l1": "L1 and shared memory",
    "issue": "the issue of instructions",
}
"""What can be busy, as a percentage of its peak."""
WAITS = {
    "long_scoreboard": "loads from global memory",
    "short_scoreboard": "shared memory",
    "gmma": "an MMA that is under way",
    "barrier": "a barrier",
    "wait": "an instruction's fixed latency",
    "math_pipe": "a busy arithmetic pipe",
    "mio": "the queue of shared-memory instructions",
    "memory_pipe": "the queue of memory instructions",
    "sleeping": "a sleep (an mbarrier that is polled)",
    "instructions": "instructions that are not in the cache",
}
_BUSY = 60.0
"""Per cent of its peak from which a unit binds."""
_EVEN = 0.9
"""Mean over largest of the cycles that SMs were active, below which the work is spread unevenly."""
_AGAIN = 1.25
"""Bytes read over compulsory bytes that are worth a fact."""


class Profile(Record):
    """One kernel of a call at one shape. Under a profiler clocks and caches are others: its time is not the judge's."""

    kernel: str
    shape: str
    us: float
    binds: str
    """In words."""
    facts: tuple[str, ...]
    """The three that say most, the most telling first."""
    counters: Mapping[str, float]
    """By the names of `METRICS`; those that the GPU does not have are missing."""


class _Fact(NamedTuple):
    weight: float
    text: str


def reduced(
    kernel: str, shape: str, counters: Mapping[str, float], compulsory: float | None, *, matrix: bool = True
) -> Profile:
    """`counters` in microseconds, bytes, per cent and ratios; `compulsory` bytes of a call, where it is one launch.

    `matrix`: whether the kernel has matrix instructions at all.
    """
    busy = {name: counters[name] for name in UNITS if name in counters and (matrix or name != "tensor")}
    most = max(busy, key=lambda name: busy[name], default=None)
    if most is not None and busy[most] >= _BUSY:
        binds = f"{UNITS[most]}: {busy[most]:.0f} % of the most there can be"
    elif waits := _waits(counters):
        top = f"{UNITS[most]} is the busiest unit, {busy[most]:.0f} %" if most else "no unit was counted"
        binds = f"latency: {top}, and warps wait for {WAITS[max(waits, key=waits.__getitem__)]}"
    else:
        binds = "latency: no unit is busy"
    facts = sorted(_facts(counters, busy, most, compulsory), key=lambda f: -f.weight)
    return Profile(
        kernel=kernel, shape=shape, us=counters.get("us", 0.0), binds=binds, facts=tuple(f.text for f in facts[:3]),
        counters=dict(counters),
    )  # fmt: skip


def _waits(counters: Mapping[str, float]) -> dict[str, float]:
    return {name: counters[name] for name in WAITS if counters.get(name)}


def _facts(
    counters: Mapping[str, float], busy: Mapping[str, float], most: str | None, compulsory: float | None
) -> Iterator[_Fact]:
    """Weights are how far a figure is from where it would be if nothing were to be said about it, 1 for far."""
    if "tensor" in busy and most != "tensor":
        yield _Fact(1.2 - busy["tensor"] / 100, f"tensor pipes at work {busy['tensor']:.0f} % of the time")
    if compulsory and (read := counters.get("read", 0.0) + counters.get("written", 0.0)):
        over = read / compulsory
        if over > _AGAIN:
            hits = f"; {counters['l2_hits']:.0f} % of L2's reads hit" if "l2_hits" in counters else ""
            text = f"device memory moves {over:.1f} times the bytes that have to be moved ({read / 1e6:.0f} MB){hits}"
            yield _Fact(min(1.1, 0.4 * over), text)
    if (largest := counters.get("sm_most")) and (mean := counters.get("sm_active", 0.0) / largest) < _EVEN:
        waves = f", {counters['waves']:.1f} waves" if "waves" in counters else ""
        yield _Fact(2 * (1 - mean), f"SMs work {100 * mean:.0f} % as long as the longest of them{waves}")
    if waits := _waits(counters):
        name = max(waits, key=waits.__getitem__)
        part = waits[name] / sum(waits.values())
        yield _Fact(0.8 * part, f"{100 * part:.0f} % of waiting is for {WAITS[name]}")
    others = sorted((n for n in busy if n not in (most, "tensor")), key=lambda n: -busy[n])
    for name in others[:2]:
        yield _Fact(busy[name] / 150, f"{UNITS[name]} at {busy[name]:.0f} %")
    if "warps" in counters:
        registers = f" ({counters['registers']:.0f} registers a thread)" if "registers" in counters else ""
        yield _Fact(0.5 - counters["warps"] / 100, f"{counters['warps']:.0f} % of the SM's warps are there{registers}")
