"""Reads what NVIDIA's tools print: instructions from nvdisasm, registers, spills and remarks from `ptxas -v`.

Pure text in, facts out. Opcodes are kept with their suffixes, because they decide provenance: QGMMA (sm_90), UTCQMMA
(sm_100) and QMMA (sm_120) multiply FP8; HMMA and HGMMA with .BF16 multiply bf16, whatever the pointers held.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from kopt.evaluate.worker.candidate import FILE

_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P[T0-9]+)\s+)?([A-Z][A-Z0-9_.a-z]*)[ \t]*([^;\n]*);", re.MULTILINE
)
_SCHEDULE = re.compile(r"\s+[&?](?=\w)")
"""nvdisasm 12.8 appends barriers and stalls on sm_120 (`&wr=0x1 ?trans7`); later ones do not."""
_BRANCHES = frozenset(("BRA", "BRA.U", "BRA.DIV", "JMP"))
_TARGET = re.compile(r"(0x[0-9a-f]+)\s*$")

MMA = re.compile(r"^(?:UTC)?[A-Z]*MMA(?:\.|$)")
"""Matrix instructions; UTCCP, UTCBAR and the like move data for them and do not match."""
WARP_GROUP_MMA = re.compile(r"^[A-Z]GMMA(?:\.|$)")
_LOADS = frozenset(("LDG", "LDGSTS", "UTMALDG", "UBLKCP"))
_NARROW = re.compile(r"\.[US](?:8|16)(?:\.|$)")

SOURCE = FILE
"""The name that stands for the candidate's file in line tables, wherever it lay."""

Location = tuple[str, int]
"""File and line, as in the cubin's line table."""


class Instruction(NamedTuple):
    address: int
    opcode: str
    """With every suffix, e.g. QGMMA.64x256x32.F32.E4M3.E4M3."""
    operands: str


@dataclass(frozen=True)
class Resources:
    """What `ptxas -v` reports of a kernel."""

    registers: int
    spill_stores: int
    """Bytes."""
    spill_loads: int
    stack: int
    remarks: tuple[str, ...]


def parse(listing: str) -> tuple[Instruction, ...]:
    """Instructions of a listing with absolute branch targets, as `nvdisasm --binary` prints it."""
    return tuple(
        Instruction(int(address, 16), opcode, _SCHEDULE.split(operands, 1)[0].strip())
        for address, _predicate, opcode, operands in _INSTRUCTION.findall(listing)
    )


def opcode_class(opcode: str) -> str:
    """LDG.E.128 -> LDG. Accesses of one or two bytes keep their width, e.g. STS.U8: they cost a slot each."""
    base = opcode.partition(".")[0]
    if base in ("LDG", "STG", "LDS", "STS") and (narrow := _NARROW.search(opcode)):
        return base + narrow.group().rstrip(".")
    return base


def mma(code: Iterable[Instruction]) -> dict[str, int]:
    """Static count of matrix instructions by full opcode."""
    return dict(Counter(i.opcode for i in code if MMA.match(i.opcode)))


def opcodes(code: Iterable[Instruction]) -> dict[str, int]:
    """Static count by opcode class."""
    return dict(Counter(opcode_class(i.opcode) for i in code if i.opcode != "NOP"))


def hot_loop(code: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """The shortest span of a backward branch that holds at least half of the matrix instructions, or () without one.

    Shortest, because wait loops placed out of line branch back over most of a kernel. Where nothing multiplies
    matrices, loads from global memory take their place.
    """
    weights = [int(bool(MMA.match(i.opcode))) for i in code]
    if not any(weights):
        weights = [int(opcode_class(i.opcode).partition(".")[0] in _LOADS) for i in code]
    needed = sum(weights) / 2
    if not needed:
        return ()
    index = {i.address: n for n, i in enumerate(code)}
    best: tuple[int, int] | None = None
    for end, instruction in enumerate(code):
        start = index.get(_target(instruction), end + 1)
        if (
            start <= end
            and sum(weights[start : end + 1]) >= needed
            and (best is None or end - start < best[1] - best[0])
        ):
            best = (start, end)
    return () if best is None else tuple(code[best[0] : best[1] + 1])


def _target(instruction: Instruction) -> int:
    if instruction.opcode not in _BRANCHES:
        return -1
    found = _TARGET.search(instruction.operands)
    return int(found.group(1), 16) if found else -1


def waits_per_mma(loop: Iterable[Instruction]) -> float | None:
    """Waits for all warp-group MMAs in flight, per warp-group MMA: 1.0 means that none overlaps another.

    A wait that leaves some in flight (DEPBAR.LE gsb0, 0x1) is what pipelining looks like and does not count. Counted
    from SASS because the remarks that name it (C7510 to C7517) come and go with the version of ptxas.
    """
    loop = tuple(loop)
    multiplies = sum(bool(WARP_GROUP_MMA.match(i.opcode)) for i in loop)
    waits = sum(i.opcode.startswith("WARPGROUP.DEPBAR") and i.operands.endswith("0x0") for i in loop)
    return waits / multiplies if multiplies else None


def by_line(code: Iterable[Instruction], lines: Mapping[int, Location]) -> dict[str, dict[str, int]]:
    """Source line -> opcode class -> count. What libraries inlined belongs to the source line before it."""
    counts: dict[str, Counter[str]] = {}
    line = ""
    for instruction in code:
        file, number = lines.get(instruction.address, ("", 0))
        if file == SOURCE and number:
            line = str(number)
        if instruction.opcode != "NOP":
            counts.setdefault(line, Counter())[opcode_class(instruction.opcode)] += 1
    if "" in counts:  # a prologue without a line: to the first one that has one
        first = min((key for key in counts if key), key=int, default="0")
        counts.setdefault(first, Counter()).update(counts.pop(""))
    return {key: dict(value) for key, value in counts.items()}


_USED = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REMARK = re.compile(r"\((C\d{4})\)\s*(.+)")
_IN_FUNCTION = re.compile(r"\s+in (?:the )?function '[^']*'")


def resources(log: str) -> Resources:
    """Registers, spills and remarks from the output of `ptxas -v`; spills are summed over the functions of a kernel."""
    registers = [int(n) for n in _USED.findall(log)]
    spills = [tuple(map(int, found)) for found in _SPILLS.findall(log)]
    remarks = {f"{code}: {_IN_FUNCTION.sub('', text).strip()}": None for code, text in _REMARK.findall(log)}
    return Resources(
        registers=max(registers, default=0),
        stack=max((s[0] for s in spills), default=0),
        spill_stores=sum(s[1] for s in spills),
        spill_loads=sum(s[2] for s in spills),
        remarks=tuple(remarks),
    )


_BUFFER = re.compile(r"ttg\.local_alloc\b[^\n]*?!ttg\.memdesc<((?:\d+x){3,})(f8|f16|bf16|f32|i8|i16|i32)")
_BYTES = {"f8": 1, "i8": 1, "f16": 2, "bf16": 2, "i16": 2, "f32": 4, "i32": 4}


def pipeline_depth(ttgir: str) -> int | None:
    """Buffers of the software pipeline: the leading extent of the largest shared allocation of tiles, None without any.

    The largest is an operand's; staging buffers of the epilogue are smaller and have a depth of their own.
    """
    found = []
    for extents, element in _BUFFER.findall(ttgir):
        sizes = [int(extent) for extent in extents.split("x") if extent]
        found.append((prod(sizes) * _BYTES[element], sizes[0]))
    return max(found)[1] if found else None


def facts(code: Sequence[Instruction], lines: Mapping[int, Location], log: str) -> dict[str, Any]:
    """What KernelFacts says of the code itself, whatever product it runs on. `log` is from `ptxas -v`."""
    used = resources(log)
    loop = hot_loop(code)
    return {
        "registers": used.registers,
        "spill_stores": used.spill_stores,
        "spill_loads": used.spill_loads,
        "remarks": used.remarks,
        "mma": mma(code),
        "opcodes": opcodes(code),
        "waits_per_mma": waits_per_mma(loop),
        "lines": by_line(code, lines),
        "hot_lines": by_line(loop, lines),
    }
