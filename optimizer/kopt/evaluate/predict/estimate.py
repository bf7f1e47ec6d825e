"""One call of the entry at one shape: its launches in turn, the roofline that nothing beats, how far to trust it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from kopt.evaluate.predict.constants import Constants
from kopt.evaluate.predict.counted import CountedLaunch, Loop, Mma, Traffic
from kopt.evaluate.predict.model import time_launch
from kopt.evaluate.recipe import Recipe
from kopt.machine.products import Product
from kopt.records import Cost, KernelFacts, LaunchFacts, Prediction, Task

Confidence = Literal["high", "medium", "low"]

_DOUBTFUL = (
    "ATen operations",
    "libdevice",
    "inline assembly",
    "dot_scaled",
    "depend",
    "sorting",
    "waits for",
    "is counted",
)
"""Words of warnings that make a prediction a guess."""

_TILE = (128, 256, 128)
_MMA_SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)")
_PART = 0.05
"""Of the kernels' time: what ATen's operations take beyond it makes a prediction a guess."""


@dataclass(frozen=True)
class Call:
    """What is known of a call before any counting."""

    shape: str
    cost: Cost
    peak: str
    """Key of the product's peak that the task refers to."""
    launches: Sequence[LaunchFacts]
    kernels: Mapping[str, KernelFacts]
    eager: tuple[int, int] = (0, 0)
    """ATen operations that move something, and the bytes that they move."""
    loaded: tuple[tuple[int, ...], ...] = ()
    """Blocks that TMA descriptors of inputs load in the launch that multiplies."""


def roofline_us(cost: Cost, peak: str, product: Product) -> float:
    """Microseconds that no kernel can beat: useful FLOPs at the data-sheet peak, compulsory bytes at its bandwidth."""
    tflops = product.peak(peak)
    arithmetic = cost.flops / tflops * 1e-6 if tflops else 0.0
    return max(arithmetic, (cost.read + cost.written) / product.hbm_tbs * 1e-6)


def estimate(
    call: Call, launches: Sequence[CountedLaunch], product: Product, k: Constants, calibrated: bool
) -> Prediction:
    """The prediction from counted launches."""
    terms: defaultdict[str, float] = defaultdict(float)
    warnings: dict[str, None] = {}
    us = 0.0
    for launch, kernel in zip(launches, match(launches, call), strict=True):
        if not launch.programs:
            continue
        timing = time_launch(launch, kernel, product, k)
        us += timing.us + k.launch_us
        terms["launch"] += k.launch_us
        for name, amount in timing.terms.items():
            terms[name] += amount
        if kernel is None:
            warnings[f"{launch.name}: no compiled facts; instructions are estimated"] = None
        elif kernel.spills:
            warnings[f"{launch.name}: registers are spilled, which costs between nothing and a factor of ten"] = None
        for warning in launch.warnings:
            warnings[f"{launch.name}: {warning[:200]}"] = None
        if launch.window.programs < launch.window.of:
            warnings[f"{launch.name}: too slow to count; what neighbours share is uncertain"] = None
    if told := _apart(launches, call):
        warnings[told] = None
    us += _eager(call, product, k, us, terms, warnings)
    useful = call.cost.flops
    done = sum(launch.flops for launch in launches)
    if useful and done > 1.25 * useful:
        warnings[f"{done / useful:.2f} times the useful FLOPs are computed (padding, masks)"] = None
    if not any(launch.programs for launch in launches):
        warnings["no kernel was launched"] = None
    return _prediction(call, product, us, terms, _confidence(product, warnings, calibrated), calibrated, warnings)


def guess(call: Call, product: Product, k: Constants, why: str) -> Prediction | None:
    """A rough time from the grid and the compiled kernel alone; None where not even that is known.

    The task's FLOPs and compulsory bytes are spread evenly over the programs of the largest launch, in turns of the
    tile that its descriptors and matrix instructions make, or of 128 x 256 x 128 where they do not tell.
    """
    known = [(launch, call.kernels[launch.kernel]) for launch in call.launches if launch.kernel in call.kernels]
    if not known or not call.cost.flops:
        return None
    launch, kernel = max(known, key=lambda pair: (sum(pair[1].mma.values()), pair[0].programs))
    if not kernel.mma or not launch.programs or not kernel.occupancy:
        return None
    counted = _spread_evenly(call.cost, launch, kernel, tile_of(call.loaded, kernel.mma) or _TILE)
    timing = time_launch(counted, kernel, product, k)
    terms = defaultdict(float, timing.terms)
    terms["launch"] = launches_us = k.launch_us * len(call.launches)
    warnings: dict[str, None] = {f"rough: {why}; work was spread over the grid from the task's cost": None}
    us = timing.us + launches_us
    us += _eager(call, product, k, us, terms, warnings)
    return _prediction(call, product, us, terms, "low", False, warnings)


def _eager(
    call: Call, product: Product, k: Constants, kernels_us: float, terms: defaultdict[str, float],
    warnings: dict[str, None],
) -> float:  # fmt: skip
    """Microseconds of ATen operations: a launch for each, and their bytes at the memory's full speed."""
    operations, nbytes = call.eager
    if not operations:
        return 0.0
    launch, moved = operations * k.launch_us, nbytes / product.hbm_tbs * 1e-6
    terms["launch"] += launch
    terms["eager"] += moved
    if moved > _PART * kernels_us:
        warnings["ATen operations do part of the work: of theirs only the bytes are counted"] = None
    return launch + moved


def blocks(recipe: Recipe | None, task: Task) -> tuple[tuple[int, ...], ...]:
    """See `Call.loaded`; () where there is no recipe."""
    inputs = {number for number, tensor in enumerate(task.tensors) if tensor.role == "input"}
    step = next((step for step in recipe.steps if step.matrix), None) if recipe else None
    return tuple(a.block for a in step.arguments if a.kind == "descriptor" and a.buffer in inputs) if step else ()


def tile_of(loaded: Sequence[Sequence[int]], mma: Mapping[str, int]) -> tuple[int, int, int] | None:
    """Rows, columns and depth of a turn of the loop, where two operands are loaded; None where they do not tell.

    Several warp groups may share the columns and load rows of their own: the instructions tell how many there are.
    """
    if len(loaded) != 2 or any(len(block) != 2 for block in loaded):
        return None
    (rows, depth), (n, other) = loaded
    shapes = ((_MMA_SHAPE.search(name), count) for name, count in mma.items())
    products = sum(prod(map(int, found.groups())) * count for found, count in shapes if found)
    m, rest = divmod(products, n * depth)
    return (m, n, depth) if depth == other and m and not rest and m % rows == 0 else None


def _spread_evenly(cost: Cost, launch: LaunchFacts, kernel: KernelFacts, tile: tuple[int, int, int]) -> CountedLaunch:
    """What a launch would count to if it multiplied such tiles with nothing wasted."""
    m, n, depth = tile
    element = "fp8e4nv" if any(o.startswith(("QGMMA", "UTCQMMA", "QMMA")) for o in kernel.mma) else "bf16"
    turns = cost.flops / launch.programs / (2 * m * n * depth)
    width = 1 if element.startswith("fp8") else 2
    loaded = turns * (m + n) * depth * width
    loads = Traffic(
        buffer="?", direction="load", feed="descriptor", requests=2 * turns, bytes=loaded, sectors=loaded / 32,
        lines=loaded / 128, reuse=min(1.0, max(0.125, cost.read / (loaded * launch.programs))),
    )  # fmt: skip
    stored = cost.written / launch.programs
    stores = Traffic(
        buffer="!", direction="store", feed="descriptor", requests=1, bytes=stored, sectors=stored / 32,
        lines=stored / 128,
    )  # fmt: skip
    loop = Loop(
        lines=(1, 1), executions=max(turns, 1.0), mma=(Mma(a=element, b=element, m=m, n=n, k=depth, count=turns),),
        traffic=(loads,),
    )  # fmt: skip
    return CountedLaunch(
        name=launch.name,
        grid=launch.grid,
        programs=launch.programs,
        loops=(Loop(lines=(0, 0), executions=1.0, traffic=(stores,)), loop),
        buffers={"?": int(cost.read)},
    )


def match(launches: Sequence[CountedLaunch], call: Call) -> list[KernelFacts | None]:
    """The compiled kernel of each counted launch: by order where both saw the same launches, else by name."""
    traced = list(call.launches)
    if [launch.name for launch in launches] == [launch.name for launch in traced]:
        return [call.kernels.get(launch.kernel) for launch in traced]
    by_name = {launch.name: call.kernels.get(launch.kernel) for launch in traced}
    return [by_name.get(launch.name) for launch in launches]


def _apart(launches: Sequence[CountedLaunch], call: Call) -> str:
    """How what was counted, in an interpreter, differs from what was compiled; "" where it does not."""
    counted, compiled = ([launch for launch in seen if launch.programs] for seen in (launches, call.launches))
    if [launch.name for launch in counted] != [launch.name for launch in compiled]:
        return "another row of launches is compiled than is counted"
    for one, other in zip(counted, compiled, strict=True):
        if one.grid != other.grid:
            return f"{one.name}: a grid of {_by(other.grid)} is compiled, and one of {_by(one.grid)} is counted"
    return ""


def _by(grid: tuple[int, int, int]) -> str:
    return " x ".join(map(str, grid))


def _confidence(product: Product, warnings: Mapping[str, None], calibrated: bool) -> Confidence:
    if any(word in warning for warning in warnings for word in (*_DOUBTFUL, "no compiled facts", "too slow")):
        return "low"
    if product.arch != 90:
        return "low"  # nothing of the model was ever compared with a measurement there
    return "high" if calibrated and not warnings else "medium"


def _prediction(
    call: Call,
    product: Product,
    us: float,
    terms: Mapping[str, float],
    confidence: Confidence,
    calibrated: bool,
    warnings: dict[str, None],
) -> Prediction:
    floor = roofline_us(call.cost, call.peak, product)
    if us < floor:
        if us:
            warnings["the model came out faster than the roofline, which was taken instead"] = None
            confidence = "low" if us < 0.9 * floor else confidence
        us = floor
    tflops = product.peak(call.peak)
    own = {name: amount for name, amount in terms.items() if amount > 0}
    return Prediction(
        shape=call.shape,
        us=max(us, 1e-3),
        utilization=call.cost.flops / (us * tflops * 1e6) if tflops and us else None,
        roofline=floor / us if us else None,
        terms={name: round(amount, 4) for name, amount in own.items()},
        bound=max(own, key=lambda name: own[name]) if own else "",
        confidence=confidence,
        calibrated=calibrated,
        warnings=tuple(warnings),
    )
