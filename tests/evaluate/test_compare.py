"""The error metric and the words for what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kopt.evaluate.compare import Limits, compare, relative_rms

torch = pytest.importorskip("torch")


def find(got: Any, want: Any, limits: Limits | None = None) -> Any:
    return compare("out", got, want.double(), limits or Limits(1e-2), shape="ragged", family="normal")


def matrix(rows: int = 8, columns: int = 16) -> Any:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e4, 1e30])
def test_the_metric_does_not_depend_on_scale(scale: float) -> None:
    want = matrix().double()
    assert relative_rms(want * 1.01 * scale, want * scale) == pytest.approx(0.01)


def test_zeros_are_wrong_at_any_scale() -> None:
    want = 1e-6 * matrix()
    assert find(torch.zeros_like(want), want).finding.rule == "numerics.rms"


def test_nothing_expected_and_nothing_found_is_right() -> None:
    zeros = torch.zeros(4, 4)
    assert find(zeros, zeros).finding is None
    assert math.isinf(relative_rms(zeros + 1e-20, zeros))
    assert find(zeros + 1e-20, zeros).finding is not None


def test_an_empty_output_is_right() -> None:
    assert find(torch.empty(0, 4), torch.empty(0, 4), Limits(1e-2, torch.empty(0, 4))).finding is None


def test_one_wrong_element_among_many_breaks_its_bound_but_not_the_metric() -> None:
    want = matrix(300, 300)
    got = want.clone()
    got[123, 256] += 0.5
    assert find(got, want).finding is None
    found = find(got, want, Limits(1e-2, 0.01 * torch.ones_like(want))).finding
    assert found.rule == "numerics.bound"
    assert found.place == "normal out[123, 256]"
    assert "1 of 90000 elements is wrong" in found.message


def test_a_finding_names_shape_place_values_and_bound() -> None:
    want = torch.ones(8, 16)
    got = want.clone()
    got[2:4, 5:7] = 3.0
    found = find(got, want, Limits(1e-2, 0.25 * torch.ones_like(want))).finding
    assert (found.shape, found.place) == ("ragged", "normal out[2, 5]")
    assert (found.got, found.want, found.bound) == ("3", "1", "0.25")
    assert "got 3, expected 1 ± 0.25; 4 of 128 elements are wrong, within out[2:4, 5:7]" in found.message
    assert str(found).startswith("ragged normal out[2, 5]: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_where_one_is_expected_is_wrong(value: float) -> None:
    want = matrix()
    got = want.clone()
    got[1, 1] = value
    found = find(got, want, Limits(1e30, 1e30 * torch.ones_like(want))).finding
    assert found.rule == "numerics.nonfinite"
    assert found.place == "normal out[1, 1]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_where_none_is_expected_is_right(value: float) -> None:
    want = matrix()
    want[1, 1] = value
    assert find(want.clone(), want, Limits(1e-2, torch.full_like(want, 1e-3))).finding is None
    got = want.clone()
    got[1, 1] = 5.0
    assert find(got, want).finding.rule == "numerics.nonfinite"


def test_infinities_of_the_other_sign_are_wrong() -> None:
    want = torch.tensor([[float("inf"), 1.0]])
    assert find(-want * torch.tensor([[1.0, -1.0]]), want).finding.rule == "numerics.nonfinite"


def test_exact_means_the_nearest_value_of_the_format() -> None:
    want = torch.tensor([[257.0, 259.0, -3.0]])
    exact = Limits(1e-2, exact=True)
    assert find(want.bfloat16(), want, exact).finding is None  # 256 and 260: ties to even
    off_by_one_unit = torch.tensor([[258.0, 260.0, -3.0]]).bfloat16()
    found = find(off_by_one_unit, want, exact).finding
    assert found.rule == "numerics.exact"
    assert found.want == "256"


def test_minus_zero_is_exactly_zero() -> None:
    assert find(torch.tensor([-0.0]), torch.tensor([0.0]), Limits(1e-2, exact=True)).finding is None


def test_integers_compare_exactly() -> None:
    want = torch.tensor([[5, -1, 2**31 - 1]], dtype=torch.int32)
    exact = Limits(1e-9, exact=True)
    assert find(want.clone(), want, exact).finding is None
    assert find(want + torch.tensor([[0, 1, 0]], dtype=torch.int32), want, exact).finding.place == "normal out[0, 1]"


@pytest.mark.parametrize(("factor", "says"), [(2.0, "2 times"), (0.0, "all of them 0"), (-1.0, "-1 times")])
def test_what_wrong_elements_have_in_common_is_said(factor: float, says: str) -> None:
    want = matrix()
    assert says in find(want * factor, want, Limits(1e-2, 1e-6 * want.abs())).finding.message


def test_the_worst_element_is_the_one_furthest_beyond_its_bound() -> None:
    want = torch.tensor([1000.0, 1.0])
    got = torch.tensor([1010.0, 2.0])
    found = find(got, want, Limits(1.0, torch.tensor([5.0, 0.01]))).finding
    assert found.place == "normal out[1]"
