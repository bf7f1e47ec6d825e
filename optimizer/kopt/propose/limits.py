"""What holds a kernel back, and the three facts that show it. Pure: reads a verdict, decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kopt.records import Prediction, Verdict

NAMES = {
    "tensor": "the tensor pipe",
    "shared": "shared memory",
    "l2": "L2 bandwidth",
    "hbm": "device memory bandwidth",
    "issue": "instruction issue",
    "lsu": "the load/store units",
    "special": "the special-function units",
    "latency": "latency that nothing hides",
    "waves": "an uneven last wave of programs",
    "launch": "gaps between launches",
    "host": "the host",
    "registers": "registers: it spills",
    "serialised": "the tensor pipe: its MMAs wait for one another",
}
"""Terms of a prediction, and two faults that override them, in words."""

# Which facts speak to which limit, the most telling first.
_TELLING = {
    "tensor": ("mma", "waits", "waste", "occupancy"),
    "shared": ("shared", "mma", "copies"),
    "l2": ("copies", "tiles", "occupancy"),
    "hbm": ("copies", "tiles", "occupancy"),
    "issue": ("opcodes", "mma", "registers"),
    "lsu": ("opcodes", "copies", "mma"),
    "special": ("opcodes", "mma", "occupancy"),
    "latency": ("depth", "copies", "occupancy"),
    "waves": ("tiles", "occupancy", "registers"),
    "launch": ("launches", "host", "tiles"),
    "host": ("host", "launches", "aten"),
    "registers": ("registers", "occupancy", "mma"),
    "serialised": ("waits", "remarks", "depth"),
}
_REST = ("depth", "registers", "occupancy", "shared", "copies", "mma", "tiles", "launches", "host")

SPILLS = 64
"""Bytes a thread may spill before that is what to mend first."""


class Limit(NamedTuple):
    """The binding limit at the shape that is furthest from its peak."""

    name: str
    """A key of NAMES."""
    shape: str
    facts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{NAMES.get(self.name, self.name)} ({self.shape})"


def limit(verdict: Verdict) -> Limit | None:
    """None without a prediction: what was not modelled has no known limit."""
    worst = furthest(verdict)
    if worst is None:
        return None
    kernel = main_kernel(verdict)
    name = worst.bound or max(worst.terms, key=lambda term: worst.terms[term], default="")
    if kernel.get("spill_stores", 0) + kernel.get("spill_loads", 0) > SPILLS:
        name = "registers"
    elif (kernel.get("waits_per_mma") or 0.0) >= 1.0:
        name = "serialised"
    found = dict(_facts(verdict, worst, kernel))
    order = dict.fromkeys((*_TELLING.get(name, ()), *_REST))
    facts = [found[key] for key in order if key in found]
    return Limit(name, worst.shape, (_terms(worst), *facts)[:3])


def furthest(verdict: Verdict) -> Prediction | None:
    """The prediction of the shape that is furthest from its peak."""
    return min(
        verdict.predictions,
        key=lambda p: p.utilization if p.utilization is not None else p.roofline or 0.0,
        default=None,
    )


def main_kernel(verdict: Verdict) -> Mapping[str, Any]:
    """Facts of the kernel with the most matrix instructions, as journaled; {} when nothing was traced."""
    kernels = traced(verdict).get("kernels", {})
    return max(
        kernels.values(), key=lambda k: (sum(k.get("mma", {}).values()), k.get("registers", 0)), default={}
    )  # fmt: skip


def traced(verdict: Verdict) -> Mapping[str, Any]:
    return next((stage.facts for stage in verdict.stages if stage.stage == "trace"), {})


def _terms(prediction: Prediction) -> str:
    ranked = sorted(prediction.terms.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {us:.0f}" for name, us in ranked if us > 0)
    return f"of {prediction.us:.0f} us modelled at {prediction.shape}, each unit alone would need: {parts} us"


def _facts(verdict: Verdict, worst: Prediction, k: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if k:
        yield from _kernel_facts(k)
    facts = traced(verdict)
    launches = facts.get("calls", {}).get(worst.shape, [])
    if launches:
        programs = [_programs(launch["grid"]) for launch in launches]
        yield "tiles", f"{max(programs)} programs in the largest launch at {worst.shape}"
        if len(launches) > 1:
            yield "launches", f"{len(launches)} launches a call"
    host = facts.get("host_us", {}).get(worst.shape)
    if host is not None:
        yield "host", f"the host function takes {host:.0f} us a call on this CPU"
    operations = facts.get("aten", {}).get(worst.shape, {})
    if operations:
        yield "aten", "torch operations a call: " + _counted(operations)


def _kernel_facts(k: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    spilled = k.get("spill_stores", 0) + k.get("spill_loads", 0)
    spills = f", {spilled} bytes spilled" if spilled else ", none spilled"
    yield "registers", f"{k.get('registers', '?')} registers a thread{spills}, {k.get('warps', '?')} warps"
    if "shared" in k:
        yield "shared", f"{k['shared'] / 1024:.0f} of {k['shared_limit'] / 1024:.0f} KiB of shared memory a block"
    if "occupancy" in k:
        why = f", limited by {k['occupancy_limit']}" if k.get("occupancy_limit") else ""
        yield "occupancy", f"{k['occupancy']} blocks an SM{why}"
    if k.get("depth") is not None:
        yield "depth", f"a pipeline of {k['depth']} buffers (num_stages {k.get('stages', '?')})"
    elif k.get("mma"):
        yield "depth", "loads are not pipelined: no buffers in flight while it multiplies"
    if k.get("waits_per_mma") is not None:
        yield "waits", f"{k['waits_per_mma']:.2f} waits for each MMA in the hot loop (1 is serialised)"
    if k.get("mma"):
        yield "mma", "matrix instructions: " + _counted(k["mma"])
    opcodes = k.get("opcodes", {})
    copies = {name: n for name, n in opcodes.items() if name.split(".")[0] in ("LDG", "LDGSTS", "UTMALDG", "UBLKCP")}
    if copies:
        yield "copies", f"tiles come by {_counted(copies)} ({_ways(copies)})"
    if opcodes:
        yield "opcodes", "most frequent instructions: " + _counted(opcodes)
    if k.get("remarks"):
        yield "remarks", f"ptxas remarks {k['remarks'][0][:120]}"


def _ways(copies: Mapping[str, int]) -> str:
    names = {name.split(".")[0] for name in copies}
    if "UTMALDG" in names:
        return "TMA"
    return "cp.async" if "LDGSTS" in names else "through registers, not asynchronous"


def _counted(table: Mapping[str, int], count: int = 4) -> str:
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))[:count]
    return ", ".join(f"{name} x{n}" for name, n in ranked)


def _programs(grid: Sequence[int]) -> int:
    x, y, z = grid
    return x * y * z
