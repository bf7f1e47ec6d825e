"""Peaks are the data sheets', dense, by product; the wrong ones that circulate must not come back."""

from __future__ import annotations

import pytest

from kopt.errors import UsageError
from kopt.machine.products import PRODUCTS, match, product


@pytest.mark.parametrize("row", PRODUCTS, ids=lambda row: row.key)
def test_the_data_sheet_peak_follows_from_sms_rate_and_clock(row) -> None:  # type: ignore[no-untyped-def]
    for kind, peak in row.peaks.items():
        assert row.peak_at(kind, row.clock_mhz) == pytest.approx(peak, rel=0.005)


@pytest.mark.parametrize("row", PRODUCTS, ids=lambda row: row.key)
def test_fp8_runs_at_twice_the_rate_of_bf16(row) -> None:  # type: ignore[no-untyped-def]
    assert row.flops_per_clock["fp8"] == 2 * row.flops_per_clock["bf16"]


@pytest.mark.parametrize(
    ("key", "wrong", "whose"),
    [
        ("h100", 3958, "the peak with structured sparsity"),
        ("h200", 3958, "the peak with structured sparsity"),
        ("h100", 989.5, "half the rate per SM, as triton.testing has it"),
        ("b200", 1125, "a quarter of the rate per SM"),
        ("b200", 9000, "the peak with structured sparsity"),
        ("rtx-pro-6000", 400, "a suite's own table"),
        ("h20", 1979, "a table keyed by compute capability"),
        ("rtx-5090", 838, "fp16 accumulation"),
    ],
)
def test_a_wrong_peak_that_circulates_is_not_ours(key: str, wrong: float, whose: str) -> None:
    assert abs(product(key).peaks["fp8"] / wrong - 1) > 0.05, whose


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
    ],
)
def test_a_gpu_is_known_by_the_name_nvml_reports(name: str, key: str) -> None:
    found = match(name)
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize(
    "name", ["Tesla T4", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 5090 Laptop GPU", "AMD MI300X", ""]
)
def test_an_unknown_gpu_has_no_peak(name: str) -> None:
    assert match(name) is None


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'h999'; kopt knows .*h200"):
        product("h999")


def test_every_peak_names_its_source() -> None:
    assert all(len(row.source) > 20 for row in PRODUCTS)
