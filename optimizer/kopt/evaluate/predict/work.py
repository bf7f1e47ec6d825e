"""Whether a call does the work that it owes: what was counted, beside what the task's cost calls compulsory.

Timing shapes are too large to be interpreted for their results. A kernel that is right where it is checked and does a
part of the tiles where it is timed is found here, without a GPU; with one, by its outputs, too.

Counted generously: tiles are whole, masked or not; and where a task does not ask for matrix instructions, every element
of any other operation is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kopt.evaluate.predict.counted import CountedLaunch
from kopt.evaluate.provenance import LIBRARY
from kopt.evaluate.steering import STEERING
from kopt.records import Cost, Finding, Prediction, Shape, Status, Task

SLACK = {"FLOPs": 0.10, "bytes": 0.02}
"""Of what is due. Honest kernels come to 100 % of both; where programs differ and some are looked at, to 95 % of
the FLOPs."""
_UNSURE = ("a branch depends", "a loop's", "a long loop", "inline assembly", "libdevice", "dot_scaled", "stand-in",
           "like an earlier launch")  # fmt: skip
"""Words of warnings that work may be missing from the counts."""
_ENOUGH = 3
"""Programs that are always looked at, unless time ran out."""


class Shortfall(NamedTuple):
    finding: Finding
    pace: float
    """Work counted over work due, by which a time that is given all the same is stretched;
    1.0 where the task's integers decide what is due."""


def shortfall(
    task: Task,
    shape: Shape,
    cost: Cost,
    launches: Sequence[CountedLaunch],
    operations: Iterable[str],
    moved: int,
    *,
    compared: bool = False,
) -> Shortfall | None:
    """What falls short at one shape, or the shortest of it; a warning, where the counts or the dues are not sure.

    `operations` are the call's ATen operations, and `moved` the bytes that these move. Where its outputs at this shape
    will be `compared`, fewer FLOPs are a warning too: an algorithm may do with less than the task's author thought of.
    """
    names = {"?", *(output.name for output in task.outputs)}
    owed = {"bytes": min(cost.written, float(sum(output.nbytes(shape.dims) for output in task.outputs)))}
    done = {"bytes": moved + sum(_stored(launch, names) for launch in launches)}
    multiplied = any(launch.flops for launch in launches)
    if (multiplied or task.needs_mma(shape)) and not any(map(LIBRARY.match, operations)):
        owed["FLOPs"] = cost.flops
        done["FLOPs"] = sum(launch.flops for launch in launches)
        if not task.needs_mma(shape):
            done["FLOPs"] += sum(2 * _elements(launch) for launch in launches)
    short = [unit for unit in owed if done[unit] < (1 - SLACK[unit]) * owed[unit]]
    if not short:
        return None
    why = next((reason for launch in launches for reason in _doubts(launch)), "")
    unit = min(short, key=lambda unit: done[unit] / owed[unit])
    steered = any(tensor.dtype in STEERING for tensor in task.inputs)
    if steered:
        # Of lists that need no index, of sequences without keys: useful by the task's count, and no kernel's duty.
        unit = "bytes" if "bytes" in short else "FLOPs"
        why = why or ("what has to be computed depends on the task's integers" if unit == "FLOPs" else "")
    if compared and "bytes" not in short:
        why = why or "its outputs will be compared"
    pace = 1.0 if steered else min(done[unit] / owed[unit] for unit in short)
    return Shortfall(_finding(shape, unit, done[unit], owed[unit], why), pace)


def in_full(prediction: Prediction, pace: float) -> Prediction:
    """What the whole work would take at the same pace, of a kernel that may or may not do it."""
    shares = {"utilization": prediction.utilization, "roofline": prediction.roofline}
    slower = {name: share * pace for name, share in shares.items() if share is not None}
    told = f"the time of all the work, of which {pace:.1%} was counted"
    return prediction.model_copy(
        update={"us": prediction.us / pace, "confidence": "low", "warnings": (*prediction.warnings, told), **slower}
    )


def _finding(shape: Shape, unit: str, done: float, owed: float, why: str) -> Finding:
    verb = "stored to outputs" if unit == "bytes" else "computed"
    message = f"{done:.4g} {unit} are {verb}, {done / owed:.1%} of the {owed:.4g} that the task's cost calls compulsory"
    if why:
        message = f"{message}; not held against it ({why})"
    return Finding(
        rule="predict.work",
        message=message,
        status=None if why else Status.REJECTED,
        shape=shape.name,
    )


def _stored(launch: CountedLaunch, names: set[str]) -> float:
    """Bytes of the tiles that a launch stores to buffers of these names; "?" is one that is not known."""
    return launch.programs * sum(
        max(t.bytes, t.most)
        for loop in launch.loops
        for t in loop.traffic
        if t.direction != "load" and t.buffer in names
    )


def _elements(launch: CountedLaunch) -> float:
    """Elements that a launch computes outside of matrix products."""
    return launch.programs * sum(sum(loop.operations.values()) for loop in launch.loops)


def _doubts(launch: CountedLaunch) -> list[str]:
    """Why a launch may do more than was counted."""
    found = [warning for warning in launch.warnings if any(word in warning for word in _UNSURE)]
    if launch.hurried or launch.sampled < min(launch.programs, _ENOUGH):
        found.append("the time for counting was spent")
    return [f"{launch.name}: {reason[:200]}" for reason in found]
