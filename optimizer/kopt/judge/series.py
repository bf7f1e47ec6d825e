"""Everything that is measured at one shape, and what becomes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from kopt.judge.arms import Batch
from kopt.judge.backends import Sample
from kopt.judge.crew import Rejected
from kopt.judge.sizing import Sizes
from kopt.judge.statistics import quarter
from kopt.records import Finding, Shape, Status
from kopt.text import counted

GRAIN_US = 1e-3
"""The least that a clock tells."""
TIMELESS = 12
"""Batches of a shape that may take no time before that ends the measurement."""
_ASTRAY = 0.25
"""Logarithm of what a batch may be off from what a call was expected to take."""
NOISY = 0.02
"""Spread of null batches, over the work in a batch, that is worth a warning."""


_REVEAL, _REVEAL_US = 1.05, 20.0
"""What a reveal may take and be none of the work: so many times the median of the null batches', and so much more."""

_SETTLED_US = 2000.0
"""Work from which on a batch costs no more besides: a context has had its slice of time."""


class Null(NamedTuple):
    """Of a batch without calls, microseconds. Not the batch itself: that holds on to memory of its shape."""

    us: float
    reveal_us: float


@dataclass
class Series:
    """Everything measured at one shape, over all processes of the candidate."""

    shape: Shape
    sizes: Sizes
    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    nulls: list[Null] = field(default_factory=list)
    bare: list[Null] = field(default_factory=list)
    """Those that keep the device at work for next to no time."""
    rival: list[float] = field(default_factory=list)
    calls: int = 0
    expected: float = 0.0
    """Microseconds of a call, as the last process was asked for it before it was timed."""
    tensor_active: float | None = None
    void: int = 0
    timeless: int = 0
    """Batches that took no time; those that were to be timed have been made again."""
    uneven: Counter[str] = field(default_factory=Counter)
    """Quads that something was the matter with, by what it was."""
    warnings: list[str] = field(default_factory=list)

    @property
    def astray(self) -> bool:
        """Whether the first batch took far more or less than was expected: hosts stall, and devices are disturbed."""
        return bool(self.host) and self.expected > 0 and abs(math.log(self.host[0] / self.expected)) > _ASTRAY

    def net(self, batch: Batch) -> float:
        """Microseconds of a batch's calls: without its reveal, and without all else that a null batch takes.

        Of null batches a short one, which a quarter lie below: what delays others, a candidate's threads for one, makes
        nobody's calls any faster, and how many there are does not matter, as it would for the shortest. From a batch of
        little work less is taken off, down to what a bare one takes: what it costs besides grows with the work, fastest
        at first, so this is never too much. What a reveal takes beyond theirs counts as work, lest a candidate work on
        what is revealed already, or slow one of theirs down so that it may. Not above zero for a batch that took no
        longer than the shortest of them.
        """
        every = (*self.nulls, *self.bare)
        usual = _REVEAL * median(null.reveal_us for null in every) + _REVEAL_US
        took = batch.us - min(batch.reveal_us, usual)
        most = quarter(_rests(self.nulls))
        least = min(most, quarter(_rests(self.bare or self.nulls)))
        net = took - most
        if net < _SETTLED_US:
            net = (took - least) / (1 + (most - least) / _SETTLED_US)
        return net if net > 0 else took - min(_rests(every))

    def per_call(self, batch: Batch) -> float:
        """Microseconds per call; not above zero where the batch took no longer than one without calls."""
        return self.net(batch) / batch.calls

    def discard(self, label: str) -> None:
        """Count a batch of this arm that took no time, which is none; Rejected when there are too many of them."""
        self.timeless += 1
        if self.timeless >= TIMELESS:
            message = f"the {label}'s batches take no longer than those without calls"
            status, shape = Status.REJECTED, self.shape.name
            raise Rejected(Finding(rule="judge.clock", message=message, status=status, shape=shape), label)

    @property
    def null_spread(self) -> float:
        """Between null batches, their reveals apart: those are known for each batch."""
        rests = _rests(self.nulls)
        return max(rests) - min(rests)

    def remarks(self, batch_us: float) -> tuple[str, ...]:
        """Warnings, those about the measurement itself included."""
        noisy = self.null_spread > NOISY * batch_us
        return (
            *self.warnings,
            *([f"noisy: null batches differ by {self.null_spread:.0f} us"] if noisy else ()),
            *([counted(self.void, "void quad")] if self.void else ()),
        )

    def partial(self) -> dict[str, Any]:
        """What was measured so far, of a verdict that did not come."""
        return {
            "us": median(self.host),
            "opponent_us": median(self.rival) if self.rival else None,
            "quads": len(self.logs),
        }

    def facts(self) -> dict[str, Any]:
        return {
            "null_us": median(null.us for null in self.nulls),
            "reveal_us": median(null.reveal_us for null in self.nulls),
            "null_spread_us": self.null_spread,
            "opponent_us": median(self.rival) if self.rival else None,
            "variants": self.sizes.variants,
            "slots": self.sizes.slots,
            "void": self.void,
            "timeless": self.timeless,
            "batches": 0 if self.logs else len(self.host),
        }


def _rests(nulls: Iterable[Null]) -> list[float]:
    return [null.us - null.reveal_us for null in nulls]
