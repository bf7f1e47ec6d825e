"""What one program asks of each unit of an SM, loop by loop, in clocks of that unit working alone.

Work comes from the counting interpreter (FLOPs, bytes, elements), instructions from SASS: each source line's static
count times how often that line is executed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt

from kopt.evaluate.predict.constants import Constants
from kopt.evaluate.predict.counted import CountedLaunch, Loop, Mma
from kopt.machine.products import Product
from kopt.records import KernelFacts

UNITS = ("tensor", "shared", "issue", "lsu", "special")
"""Units of an SM whose demand does not depend on how many other SMs are busy; L2 and memory are kept in bytes."""

_TILE = re.compile(r"\.(\d+)x(\d+)x(\d+)")
_GROUP = re.compile(r"^[A-Z]GMMA")
_TENSOR_MEMORY = re.compile(r"^UTC[A-Z]*MMA")
_LSU = ("LDS", "STS", "LDSM", "STSM", "LDG", "STG", "LDGSTS", "LDL", "STL", "ATOMG", "ATOM", "RED", "ATOMS", "LD", "ST")
_NARROW = (".U8", ".S8", ".U16", ".S16")
_ASYNC = ("LDGSTS", "UTMALDG", "UBLKCP")


@dataclass(frozen=True)
class Pipe:
    """The matrix unit that a tl.dot runs on."""

    kind: str
    """"group" (warp-group MMA), "tensor memory" (tcgen05), "sync" (mma.sync through registers) or "cores"."""
    rate: float
    """FLOPs per clock and SM."""
    n: int = 256
    """Columns of one instruction."""


@dataclass
class Demand:
    """One loop (or what lies outside of all loops), per execution of its body."""

    loop: Loop
    executions: float
    clocks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UNITS, 0.0))
    l2_bytes: float = 0.0
    hbm_bytes: float = 0.0
    multiplies: float = 0.0
    """Matrix instructions that one warp or warp-group issues."""
    asynchronous: bool = True
    """Operands arrive without passing through registers."""


def demands(launch: CountedLaunch, kernel: KernelFacts | None, product: Product, k: Constants) -> list[Demand]:
    """Per execution, for every loop of a launch that a program enters, and for what surrounds them."""
    missing = memory_bytes(launch, product, k)
    instructions = dynamic(launch, kernel)
    warps = kernel.warps if kernel is not None else 4
    found = []
    for index, loop in enumerate(launch.loops):
        if not loop.executions:
            continue
        demand = Demand(loop, loop.executions)
        times = loop.executions
        clocks = demand.clocks
        loaded = sum(t.moved for t in loop.traffic if t.direction == "load") / times
        stored = sum(t.moved for t in loop.traffic if t.direction != "load") / times
        demand.l2_bytes = loaded + stored
        demand.hbm_bytes = sum(t.moved * missing.get((t.buffer, t.direction), 1.0) for t in loop.traffic) / times
        for mma in loop.mma:
            per = mma.count / times
            pipe = matrix_pipe(mma, kernel, product, k)
            clocks["tensor"] += per * _tensor_flops(mma, pipe) / pipe.rate
            clocks["shared"] += per * operand_bytes(mma, pipe, warps) / k.shared_port
            demand.multiplies += per * multiplies(mma, pipe, warps)
        # Operands pass through shared memory once on their way in; results go out through it to be rearranged.
        if loop.mma:
            clocks["shared"] += loaded / k.shared_port
        clocks["shared"] += 2 * stored / k.shared_port
        clocks["special"] = loop.operations.get("special", 0.0) / times / k.special
        counts = {name: n / times for name, n in instructions[index].items()}
        if counts:
            clocks["issue"] = sum(counts.values()) * warps / (k.schedulers * k.issue_share)
            clocks["lsu"] = sum(n * _slots(name, k) for name, n in counts.items()) * warps / k.lsu
        else:
            elements = sum(loop.operations.values()) / times
            clocks["issue"] = elements / 32 / (k.schedulers * k.issue_share)
            clocks["lsu"] = (loaded + stored) / 512 / k.lsu
        if kernel is not None:
            demand.l2_bytes += spilled(launch, loop, kernel, k)
        fed = any(name.split(".")[0] in _ASYNC for name in counts)
        descriptors = any(t.feed == "descriptor" for t in loop.traffic if t.direction == "load")
        demand.asynchronous = fed or descriptors or not loaded
        found.append(demand)
    return found


def spilled(launch: CountedLaunch, loop: Loop, kernel: KernelFacts, k: Constants) -> float:
    """Bytes by which spilled registers load the L2 in one turn of the hot loop; nothing while L1 holds them.

    Walking through more than a cache holds, again and again, hits nothing. Counted are the loads of the whole hot span
    and as many stores: the compiler puts lines of the surrounding loop on spills that every turn executes.
    """
    blocks = max(1, kernel.occupancy)
    held = kernel.spill_stores * 32 * kernel.warps * blocks
    instructions = sum(n for name, n in kernel.opcodes.items() if name in ("LDL", "STL"))
    if not instructions or held <= k.l1_bytes - kernel.shared * blocks or loop is not _hottest(launch):
        return 0.0
    width = (kernel.spill_stores + kernel.spill_loads) / instructions
    loads = sum(counts.get("LDL", 0) for counts in kernel.hot_lines.values())
    return k.refill * 2 * loads * width * 32 * kernel.warps / unroll(launch, kernel)


def _hottest(launch: CountedLaunch) -> Loop:
    """The loop that multiplies most, else the one that moves most."""
    return max(launch.loops, key=lambda loop: (sum(m.flops for m in loop.mma), sum(t.moved for t in loop.traffic)))


def memory_bytes(launch: CountedLaunch, product: Product, k: Constants) -> dict[tuple[str, str], float]:
    """By buffer and direction: the share of the bytes moved through L2 that comes from or goes to device memory."""
    moved: defaultdict[tuple[str, str], float] = defaultdict(float)
    reuse: dict[str, float] = {}
    for loop in launch.loops:
        for t in loop.traffic:
            moved[t.buffer, t.direction] += launch.programs * t.moved
            if t.direction == "load":
                reuse[t.buffer] = max(reuse.get(t.buffer, 0.0), t.reuse)
    footprint = {key: min(total, launch.buffers.get(key[0], total)) for key, total in moved.items()}
    resident = sum(size for (_, direction), size in footprint.items() if direction == "load")
    fits = resident <= k.l2_share * product.l2_bytes
    shares = {}
    for (buffer, direction), total in moved.items():
        if not total:
            continue
        once = footprint[buffer, direction]
        if direction == "load" and not fits:
            once = min(total, max(once, total * reuse[buffer]))
        shares[buffer, direction] = once / total
    return shares


def matrix_pipe(mma: Mma, kernel: KernelFacts | None, product: Product, k: Constants) -> Pipe:
    """Which unit a tl.dot runs on, from the instructions that the compiler chose."""
    opcodes = dict(kernel.mma) if kernel is not None else {}
    eight = mma.a.startswith(("fp8", "int8", "uint8")) and not any(o.startswith(("HMMA", "HGMMA")) for o in opcodes)
    rates = product.flops_per_clock
    rate = float(rates["fp8"] if eight else rates["bf16"])
    if mma.a in ("fp32", "fp64"):
        rate = rates["bf16"] / 2
    if not opcodes:
        return Pipe("cores" if kernel is not None else "group", k.ffma if kernel is not None else rate)
    chosen = max(opcodes, key=lambda o: (bool(_GROUP.match(o) or _TENSOR_MEMORY.match(o)), opcodes[o]))
    tile = _TILE.search(chosen)
    if _GROUP.match(chosen):
        return Pipe("group", rate, int(tile.group(2)) if tile else 256)
    if _TENSOR_MEMORY.match(chosen):
        return Pipe("tensor memory", rate)
    return Pipe("sync", rate * k.mma_sync, 8)


def _tensor_flops(mma: Mma, pipe: Pipe) -> float:
    """Of one tl.dot, with the rows that a warp-group instruction computes whether they are there or not."""
    rows = max(mma.m, 64) if pipe.kind in ("group", "tensor memory") else max(mma.m, 16)
    return 2.0 * rows * max(mma.n, 8) * mma.k


def operand_bytes(mma: Mma, pipe: Pipe, warps: int) -> float:
    """Bytes of shared memory that one tl.dot reads, re-reads included."""
    a, b = mma.m * mma.k * _width(mma.a), mma.n * mma.k * _width(mma.b)
    if pipe.kind == "group":
        return a * ceil(mma.n / pipe.n) + b * max(1, ceil(mma.m / 64))
    if pipe.kind == "tensor memory":
        return a * ceil(mma.n / pipe.n) + b * max(1, ceil(mma.m / 128))
    down = max(1, min(round(sqrt(warps)), mma.m // 16 or 1))
    across = max(1, warps // down)
    return a * across + b * down


def multiplies(mma: Mma, pipe: Pipe, warps: int) -> float:
    """Instructions that one warp-group issues for a tl.dot."""
    if pipe.kind != "group":
        return 0.0
    depth = 32 / _width(mma.a)
    groups = max(1, warps // 4)
    return max(1.0, ceil(mma.m / 64) * ceil(mma.n / pipe.n) * (mma.k / depth) / groups)


def _width(element: str) -> float:
    """Bytes of an element by Triton's name."""
    found = re.search(r"(\d+)", element)
    return {"fp8e4nv": 1.0, "fp8e5": 1.0}.get(element, int(found.group(1)[:2]) / 8 if found else 1.0) or 1.0


def _slots(opcode: str, k: Constants) -> float:
    base = opcode.split(".")[0]
    if base not in _LSU:
        return 0.0
    return k.narrow if opcode.endswith(_NARROW) and base in ("STS", "LDS") else 1.0


def dynamic(launch: CountedLaunch, kernel: KernelFacts | None) -> list[Mapping[str, float]]:
    """Instructions that one warp executes in each loop of the launch, by opcode class, summed over executions.

    Instructions of a loop's lines that lie outside of the hot span are the prologue and epilogue of its pipeline: they
    run as often as what surrounds the loop.
    """
    found: list[defaultdict[str, float]] = [defaultdict(float) for _ in launch.loops]
    if kernel is None or not kernel.lines:
        return list(found)
    unrolled = unroll(launch, kernel)
    for line, counts in kernel.lines.items():
        number = int(line)
        times, index = launch.place(number)
        hot = kernel.hot_lines.get(line, {})
        outside = _around(launch, index)
        rest_times = launch.loops[outside].executions if launch.loops and kernel.hot_lines else times
        for opcode, count in counts.items():
            inside = hot.get(opcode, 0)
            if launch.loops[index].whole or index == outside:
                found[index][opcode] += count * times
                continue
            found[index][opcode] += inside * times / unrolled
            if kernel.hot_lines and hot:
                found[outside][opcode] += (count - inside) * rest_times
            else:
                found[index][opcode] += (count - inside) * times
    return list(found)


def unroll(launch: CountedLaunch, kernel: KernelFacts) -> float:
    """Source iterations per turn of the compiled hot loop, from the matrix instructions in it; 1.0 when unknown."""
    static: Counter[tuple[int, int, int]] = Counter()
    for opcode, count in kernel.mma.items():
        if tile := _TILE.search(opcode):
            static[int(tile.group(1)), int(tile.group(2)), int(tile.group(3))] += count
    loops = [loop for loop in launch.loops if loop.mma and not loop.whole]
    hot = sum(n for counts in kernel.hot_lines.values() for name, n in counts.items() if name.endswith("GMMA"))
    if not static or not loops or not hot:
        return 1.0
    m, n, k = max(static, key=lambda shape: static[shape])
    main = max(loops, key=lambda loop: sum(mma.flops for mma in loop.mma))
    groups = max(1, kernel.warps // 4)
    wanted = sum(mma.flops for mma in main.mma) / main.executions / (2.0 * m * n * k) / groups
    return max(1.0, round(hot / wanted)) if wanted >= 1 else 1.0


def _around(launch: CountedLaunch, index: int) -> int:
    """Index of the smallest loop around a loop; of the whole program when there is none."""
    first, last = launch.loops[index].lines
    around = [
        (loop.lines[1] - loop.lines[0], i)
        for i, loop in enumerate(launch.loops)
        if not loop.whole and i != index and loop.lines[0] <= first and last <= loop.lines[1] and loop.executions
    ]
    return min(around)[1] if around else launch.index((0, 0))
