"""The one error metric, ||got - want|| / ||want||, and the checks around it. A finding names the place and the numbers.

The metric is free of scale: an absolute limit would accept zeros where results are small (attention averages
thousands of values). It cannot see one wrong tile among ten thousand; the bound on each element can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kopt.records import Finding, Status

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Limits:
    """What one output is held to."""

    relative_rms: float
    bound: torch.Tensor | None = None
    """Largest absolute error of each element, float64."""
    exact: bool = False
    """Whether every element must equal the expected value as rounded to the output's dtype."""


@dataclass(frozen=True)
class Comparison:
    """How one output of one call compares."""

    finding: Finding | None
    relative_rms: float
    of_bound: float
    """Largest error as a fraction of its bound; 0 where there is none."""


def relative_rms(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want|| in float64; 0 when both vanish, inf when only `want` does."""
    error = (got.double() - want.double()).norm().item()
    size = want.double().norm().item()
    if size == 0:
        return 0.0 if error == 0 else float("inf")
    return float(error / size)


def compare(name: str, got: torch.Tensor, want: torch.Tensor, limits: Limits, *, shape: str, family: str) -> Comparison:
    """Compare an output with what is expected, float64 of the same sizes; the first broken rule makes the finding.

    Where the expected value is a number the output has to be one too; where it is NaN or an infinity, the same.
    """
    import torch

    value, ideal = got.double(), want.double()
    report = _Report(name, shape, family, value, ideal)
    odd = ~torch.isfinite(ideal)
    bad = torch.where(odd, ~((value == ideal) | (value.isnan() & ideal.isnan())), ~torch.isfinite(value))
    if bad.any():
        return Comparison(report.finding("numerics.nonfinite", bad, None), float("inf"), float("inf"))
    value, ideal = torch.where(odd, 0.0, value), torch.where(odd, 0.0, ideal)
    error = (value - ideal).abs()
    rms = relative_rms(value, ideal)
    of_bound = 0.0
    if limits.bound is not None:
        bound = torch.where(odd, 0.0, limits.bound.double())
        of_bound = torch.where(error > 0, error / bound, 0.0).max().item() if error.numel() else 0.0
    if limits.exact:
        # As values: -0 equals 0, whose sign depends on the order of additions.
        rounded = ideal.to(got.dtype).double()
        if (bad := value != rounded).any():
            report.want = rounded
            return Comparison(report.finding("numerics.exact", bad, None), rms, of_bound)
    elif limits.bound is not None and (bad := error > bound).any():
        return Comparison(report.finding("numerics.bound", bad, bound), rms, of_bound)
    if rms > limits.relative_rms and not limits.exact:
        return Comparison(report.rms(rms, limits.relative_rms), rms, of_bound)
    return Comparison(None, rms, of_bound)


class _Report:
    """Words for what is wrong with one output."""

    def __init__(self, name: str, shape: str, family: str, got: torch.Tensor, want: torch.Tensor) -> None:
        self.name, self.shape, self.family, self.got, self.want = name, shape, family, got, want

    def finding(self, rule: str, bad: torch.Tensor, bound: torch.Tensor | None) -> Finding:
        """About the elements of `bad`: the worst of them, how many they are and where they lie."""
        import numpy as np
        import torch

        excess = (self.got - self.want).abs() if bound is None else (self.got - self.want).abs() / bound
        # NaN is worse than any number; what is not bad comes last.
        excess = torch.where(bad, torch.nan_to_num(excess, nan=float("inf")), -1.0)
        # NumPy's: torch.unravel_index imports sympy, half a second and three from a cold disk.
        worst = [int(i) for i in np.unravel_index(int(excess.argmax()), tuple(bad.shape))]
        got, want = self.got[tuple(worst)].item(), self.want[tuple(worst)].item()
        limit = None if bound is None else bound[tuple(worst)].item()
        expected = f"{want:.7g}" if limit is None else f"{want:.6g} ± {limit:.2g}"
        exactly = " exactly" if rule == "numerics.exact" else ""
        message = f"got {got:.7g}, expected {expected}{exactly}; {self._extent(bad)}{self._pattern(bad)}"
        return Finding(
            rule=rule,
            message=message,
            status=Status.WRONG,
            shape=self.shape,
            place=f"{self.family} {self.name}{worst}",
            got=f"{got:.9g}",
            want=f"{want:.9g}",
            bound="0" if limit is None else f"{limit:.3g}",
        )

    def rms(self, rms: float, limit: float) -> Finding:
        return Finding(
            rule="numerics.rms",
            message=f"relative RMS error {rms:.2e}, allowed {limit:.0e}; every element is within its own bound",
            status=Status.WRONG,
            shape=self.shape,
            place=f"{self.family} {self.name}",
            got=f"{rms:.3e}",
            want="0",
            bound=f"{limit:.3e}",
        )

    def _extent(self, bad: torch.Tensor) -> str:
        count = int(bad.sum())
        if count == bad.numel():
            return f"all {count} elements are wrong"
        where = bad.nonzero()
        low, high = where.min(0).values.tolist(), where.max(0).values.tolist()
        box = ", ".join(str(a) if a == b else f"{a}:{b + 1}" for a, b in zip(low, high, strict=True))
        if count == 1:
            return f"1 of {bad.numel()} elements is wrong"
        return f"{count} of {bad.numel()} elements are wrong, within {self.name}[{box}]"

    def _pattern(self, bad: torch.Tensor) -> str:
        """A hint where the wrong elements have something in common."""
        import torch

        got, want = self.got[bad], self.want[bad]
        if got.isnan().all():
            return ", all of them NaN"
        if (got == 0).all():
            return ", all of them 0"
        ratio = got / want
        ratio = ratio[torch.isfinite(ratio)]
        if ratio.numel() > 7 and ratio.numel() > 0.9 * got.numel():
            middle = ratio.median().item()
            if middle and ((ratio / middle - 1).abs() < 0.01).float().mean() > 0.9:
                return f", most of them {middle:.4g} times what is expected"
        return ""
