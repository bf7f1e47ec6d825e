"""From the demands of one program to the time of a launch: overlap, latency, waves, power.

Within a program, units that work at the same time are added in a p-norm, and a chain of latencies that nothing overlaps
sets a floor. Programs on one SM share its units and hide each other's chains. Programs come in waves; the last one may
leave SMs idle. The clock is the highest at which the board stays within its power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from kopt.evaluate.predict.constants import Constants
from kopt.evaluate.predict.counted import CountedLaunch
from kopt.evaluate.predict.demand import UNITS, Demand, demands
from kopt.machine.products import Product
from kopt.records import KernelFacts

_REFERENCE_GHZ = 1.6
"""The clock that the energies of `Constants` are given at; energy grows with its square, as voltage does."""
_SLOWEST = 0.3
"""Of the highest clock: how far power can push it down."""
_EVEN = 0.02
"""Variation of work between programs up to which waves are in step."""


@dataclass(frozen=True)
class Timing:
    """One launch. `terms` are what each unit alone would take, in microseconds; `us` is not their sum."""

    us: float
    terms: Mapping[str, float]
    clock_ghz: float
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Wave:
    """`blocks` programs on each of `sms` SMs, in clocks."""

    busy: float
    """Until the busiest units of an SM are done with all of its programs."""
    chain: float
    """Until one program is done, had it the SM for itself."""
    units: Mapping[str, float]

    @property
    def clocks(self) -> float:
        return max(self.busy, self.chain)


def time_launch(launch: CountedLaunch, kernel: KernelFacts | None, product: Product, k: Constants) -> Timing:
    """Modelled time of one launch, without the gap before it."""
    found = demands(launch, kernel, product, k)
    joules = _joules(launch, found, k)
    low, high = _SLOWEST * product.max_clock_mhz / 1e3, product.max_clock_mhz / 1e3
    timing = _at_clock(launch, kernel, product, k, found, high)
    if _watts(timing, joules, k) <= product.power_w:
        return timing
    for _ in range(16):
        middle = (low + high) / 2
        timing = _at_clock(launch, kernel, product, k, found, middle)
        if _watts(timing, joules, k) > product.power_w:
            high = middle
        else:
            low = middle
    return timing


def _watts(timing: Timing, joules: float, k: Constants) -> float:
    return k.idle_w + joules * (timing.clock_ghz / _REFERENCE_GHZ) ** 2 / (timing.us * 1e-6)


def _joules(launch: CountedLaunch, found: list[Demand], k: Constants) -> float:
    """Of one launch at the reference clock."""
    l2 = launch.programs * sum(d.executions * d.l2_bytes for d in found)
    hbm = launch.programs * sum(d.executions * d.hbm_bytes for d in found)
    return 1e-12 * (k.flop_pj * launch.flops + k.l2_pj * l2 + k.hbm_pj * hbm)


def _at_clock(
    launch: CountedLaunch,
    kernel: KernelFacts | None,
    product: Product,
    k: Constants,
    found: list[Demand],
    ghz: float,
) -> Timing:
    blocks = max(1, kernel.occupancy if kernel is not None else 1)
    programs = launch.programs
    slots = product.sms * blocks
    full = _wave(launch, kernel, product, k, found, ghz, product.sms, min(blocks, ceil(programs / product.sms)))
    waves, rest = divmod(programs, slots)
    tail = 0.0
    if launch.work.cv > _EVEN:
        # Programs end at different times and the next ones take their places: no waves, but a ragged end.
        turns = max(programs / slots + 0.5 * launch.work.max, launch.work.max)
        clocks = full.clocks * (turns if programs > slots else launch.work.max)
        balanced = full.clocks * max(programs / slots, 1.0)
        tail = clocks - balanced
        waves_of_work = programs / slots
    else:
        clocks = waves * full.clocks
        if rest:
            sms = min(product.sms, rest)
            last = _wave(launch, kernel, product, k, found, ghz, sms, ceil(rest / product.sms))
            clocks += last.clocks
            tail = last.clocks - full.clocks * rest / slots
        waves_of_work = programs / slots
    us = 1e-3 / ghz
    share = waves_of_work * max(1.0, slots / max(programs, 1)) if programs < slots else waves_of_work
    terms = {unit: amount * share * us for unit, amount in full.units.items()}
    terms["latency"] = max(0.0, full.chain - full.busy) * max(share, 1.0) * us
    terms["waves"] = max(0.0, tail) * us
    return Timing(us=clocks * us, terms=terms, clock_ghz=ghz)


def _wave(
    launch: CountedLaunch,
    kernel: KernelFacts | None,
    product: Product,
    k: Constants,
    found: list[Demand],
    ghz: float,
    sms: int,
    blocks: int,
) -> _Wave:
    l2 = min(k.l2_port, k.l2_tbs * 1e6 / k.l2_clock_mhz / sms)
    hbm = product.hbm_tbs * 1e3 * k.hbm_share / ghz / sms
    units = dict.fromkeys((*UNITS, "l2", "hbm"), 0.0)
    busy = chain = 0.0
    nested = _surrounding(launch)
    for demand in found:
        clocks = {**demand.clocks, "l2": demand.l2_bytes / l2, "hbm": demand.hbm_bytes / hbm}
        for unit, amount in clocks.items():
            units[unit] += amount * demand.executions * blocks
        together = sum(amount**k.overlap for amount in clocks.values()) ** (1 / k.overlap)
        busy += together * demand.executions * blocks
        chain += max(together, _chain(demand, kernel, k, clocks, nested)) * demand.executions
    return _Wave(busy, chain, units)


def _surrounding(launch: CountedLaunch) -> set[tuple[int, int]]:
    """Loops that hold other loops."""
    spans = [loop.lines for loop in launch.loops if not loop.whole]
    return {a for a in spans for b in spans if a != b and a[0] <= b[0] and b[1] <= a[1]}


def _chain(
    demand: Demand, kernel: KernelFacts | None, k: Constants, clocks: Mapping[str, float], nested: set[tuple[int, int]]
) -> float:
    """Clocks from one execution to the next when nothing else limits it: what has to happen one after the other."""
    loop = demand.loop
    loads = any(t.direction == "load" for t in loop.traffic)
    own = max(clocks["issue"], clocks["lsu"], clocks["special"])
    if loop.whole:
        return k.start + own + clocks["shared"]
    if loop.lines in nested:
        # The epilogue of a tile, and the way into the next one's loop unless the compiler merged the two. What TMA
        # stores has left the registers after half of its way through shared memory.
        stores = {t.feed for t in loop.traffic if t.direction == "store"}
        shared = clocks["shared"] * (0.5 if stores == {"descriptor"} else 1.0)
        return own + shared + (0.0 if _merged(kernel, loop.lines) else k.load_latency)
    latency = k.load_latency + clocks["l2"]
    depth = (kernel.depth if kernel is not None else None) or 1
    if not loop.mma:
        return latency / depth + own if loads else own
    multiply = max(clocks["tensor"], clocks["shared"])
    waits = kernel.waits_per_mma if kernel is not None else None
    if kernel is not None and kernel.serialized:
        groups = max(1, kernel.warps // 4)
        multiply += k.serial * demand.multiplies / groups + clocks["lsu"] + k.drain
    elif waits:
        touched = loop.operations.get("float", 0.0) / demand.executions
        per_tile = sum(m.m * m.n * m.count for m in loop.mma) / demand.executions
        multiply += k.drain + (0.7 * clocks["issue"] if touched >= 0.5 * per_tile else 0.0)
    else:
        multiply += k.bubble
    if not loads:
        return multiply
    if demand.asynchronous and depth > 1:
        # A tile is asked for when its buffer comes free, `depth - 1` turns before it is needed.
        return max(multiply, (k.turn_latency + 0.5 * clocks["l2"]) / (depth - 1))
    return latency + clocks["lsu"] + multiply + clocks["issue"] + 2 * k.barrier


def _merged(kernel: KernelFacts | None, span: tuple[int, int]) -> bool:
    """Whether the compiled hot loop holds lines of the surrounding loop: a flattened or pipelined loop over tiles."""
    if kernel is None or not kernel.hot_lines:
        return False
    lines = sorted(int(line) for line in kernel.hot_lines)
    return kernel.specialized or (lines[0] <= span[0] + 1 or lines[-1] >= span[1] - 1)
