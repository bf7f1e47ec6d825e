"""What the compiler made of a kernel: facts read from SASS and metadata, per kernel and per launch."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from kopt.records.base import Record


class KernelFacts(Record):
    """One compiled kernel (a cubin), recompiled by a process that never ran the candidate."""

    id: str
    """SHA-256 of the cubin, in hex."""
    name: str
    arch: int
    """Compute capability as an integer: 90, 100, 120."""
    warps: int
    stages: int
    """num_stages as asked for; `depth` is what the compiler made of it."""
    ctas: int = 1
    registers: int
    """Per thread."""
    spill_stores: int
    """Bytes, as ptxas reports them."""
    spill_loads: int
    shared: int
    """Bytes of shared memory a block needs, static and dynamic."""
    shared_limit: int
    """Bytes a block can have on the target."""
    occupancy: int
    """Resident blocks per SM; 0 when the kernel does not fit."""
    occupancy_limit: str = ""
    """What limits it: registers, shared memory, threads, blocks."""
    mma: Mapping[str, int] = {}
    """Static count of matrix instructions by full opcode, e.g. {"QGMMA.64x256x32.F32.E4M3.E4M3": 4}."""
    opcodes: Mapping[str, int] = {}
    """Static count by opcode class: LDG, STG, LDS, STS, UTMALDG, UTMASTG, LDGSTS, LDL, STL, FADD, PRMT, ..."""
    remarks: tuple[str, ...] = ()
    """ptxas remarks by code, e.g. "C7515: ..."."""
    depth: int | None = None
    """Buffers of the software pipeline found in TTGIR."""
    waits_per_mma: float | None = None
    """Waits for all warp-group MMAs in flight, per warp-group MMA in the hot loop; 1.0 means serialised."""
    specialized: bool = False
    """Warp-specialised: registers are redistributed among warps."""
    hot_lines: Mapping[str, Mapping[str, int]] = Field(default={}, repr=False)
    """Source line -> opcode class -> static count inside the hot loop."""
    lines: Mapping[str, Mapping[str, int]] = Field(default={}, repr=False)
    """Source line -> opcode class -> static count over the whole kernel."""

    @property
    def spills(self) -> bool:
        return self.spill_stores + self.spill_loads > 0

    @property
    def fits(self) -> bool:
        return self.occupancy > 0

    @property
    def serialized(self) -> bool:
        """Warp-group MMAs wait for one another: the tensor pipe idles."""
        return self.waits_per_mma is not None and self.waits_per_mma >= 1.0


class LaunchFacts(Record):
    """One launch in a call of the entry, in order."""

    kernel: str
    """`KernelFacts.id`, or "" when it did not compile."""
    name: str
    grid: tuple[int, int, int]

    @property
    def programs(self) -> int:
        x, y, z = self.grid
        return x * y * z
