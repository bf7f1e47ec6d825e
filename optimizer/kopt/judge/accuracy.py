"""Beyond the bound on each element: is a kernel as exact as the vendor library, in every call that is timed?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kopt.records import Finding, Shape, Status

TIMES = 1.5
"""Of the vendor library's own relative RMS error. Fast accumulation costs both the same; anything less shows."""
_SURE = 4.0
"""Standard deviations by which errors of two draws may differ by chance: of n samples each, about 1 / sqrt(n)."""


@dataclass
class Errors:
    """Relative RMS errors of one arm since it was set up for a shape: of every batch, whatever it was for."""

    whole: float | None = None
    """The largest of any call that was compared whole."""
    _slices: defaultdict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, whole: float | None, slices: Mapping[str, list[tuple[float, int]]]) -> None:
        """Of one batch: that of its whole call, and by output those of its slices, each over so many of all calls."""
        if whole is not None:
            self.whole = max(self.whole or 0.0, whole)
        for name, found in slices.items():
            # Of nothing at all there is no relative error.
            self._slices[name] += [one for one in found if math.isfinite(one[0])]

    @property
    def slices(self) -> tuple[float, int]:
        """Over the secret slices of all calls together, the largest of the outputs'; and how many those are."""
        counts = {name: sum(count for _, count in found) for name, found in self._slices.items() if found}
        squares = {name: sum(rms**2 * count for rms, count in self._slices[name]) for name in counts}
        return max(((math.sqrt(squares[name] / counts[name]), counts[name]) for name in counts), default=(0.0, 0))


def imprecise(shape: Shape, errors: Errors, vendor: Errors, unit: float, elements: int) -> Iterator[Finding]:
    """What is less exact than the vendor library's own errors, with operands of the same kind, allow.

    A few rows of one call may all cancel; the slices of all calls do not, and leave no call out. A slice counts as one
    sample, since what is wrong with its elements may have one cause. `unit` is the relative rounding error of the
    output's dtype: what no result can be held to. `elements` are those of a whole output, the smallest.
    """
    mean, slices = errors.slices
    whole = max(vendor.whole or 0.0, unit)
    # Where rows differ in size, so do their relative errors and that of the whole.
    compared = (
        ("of a whole output", errors.whole, elements, whole),
        ("over all calls", mean, slices, max(whole, vendor.slices[0])),
    )
    for where, error, samples, theirs in compared:
        if error is None or not samples:
            continue
        times = TIMES * (1 + _SURE / math.sqrt(samples))
        limit = times * theirs
        if error > limit:
            yield Finding(
                rule="judge.precision",
                message=f"relative RMS error {where} {error:.2e}, more than {times:.2g} times the vendor library's own",
                status=Status.WRONG,
                shape=shape.name,
                got=f"{error:.3e}",
                bound=f"{limit:.3e}",
            )
