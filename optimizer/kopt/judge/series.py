"""Everything that is measured at one shape, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kopt.judge.backends import Sample
from kopt.judge.sizing import Sizes
from kopt.records import Shape
from kopt.text import counted

NOISY = 0.02
"""Spread of null batches, over the work in a batch, that is worth a warning."""


@dataclass
class Series:
    """Everything measured at one shape, over all processes of the candidate."""

    shape: Shape
    sizes: Sizes
    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    nulls: list[float] = field(default_factory=list)
    rival: list[float] = field(default_factory=list)
    calls: int = 0
    tensor_active: float | None = None
    void: int = 0
    uneven: Counter[str] = field(default_factory=Counter)
    """Quads in which device or host changed their pace, by how."""
    warnings: list[str] = field(default_factory=list)

    @property
    def null(self) -> float:
        """Of a runner that the candidate has no hand in, so its middle is fair; the smallest would favour nobody."""
        return median(self.nulls)

    @property
    def null_spread(self) -> float:
        return max(self.nulls) - min(self.nulls)

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
            "null_us": self.null,
            "null_spread_us": self.null_spread,
            "opponent_us": median(self.rival) if self.rival else None,
            "variants": self.sizes.variants,
            "slots": self.sizes.slots,
            "void": self.void,
        }
