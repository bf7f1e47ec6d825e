"""Occupancy agrees with CUDA's occupancy calculator where it was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kopt.evaluate.occupancy import fits, occupancy
from kopt.machine.products import product

H200, RTX = product("h200"), product("rtx-5090")


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "expected"),
    [
        (32, 4, 0, (16, "registers")),
        (24, 4, 0, (16, "threads")),
        (255, 8, 0, (1, "registers")),
        (168, 12, 213464, (1, "registers")),
        (128, 4, 0, (4, "registers")),
        (32, 4, 98368, (2, "shared memory")),
        (32, 1, 0, (32, "blocks")),
        (64, 4, 232448, (1, "shared memory")),
    ],
)
def test_the_tightest_resource_decides(registers: int, warps: int, shared: int, expected: tuple[int, str]) -> None:
    assert occupancy(H200, registers=registers, warps=warps, shared=shared) == expected


def test_a_block_that_needs_more_than_there_is_does_not_fit() -> None:
    assert occupancy(H200, registers=64, warps=8, shared=232449) == (0, "shared memory")
    assert occupancy(RTX, registers=64, warps=8, shared=101377) == (0, "shared memory")
    assert occupancy(H200, registers=64, warps=64, shared=0) == (0, "threads")
    assert occupancy(replace(H200, registers_per_sm=32768), registers=255, warps=8, shared=0) == (0, "registers")


def test_what_does_not_fit_is_named_with_need_and_limit() -> None:
    assert list(fits(RTX, {"shared": 163856, "num_warps": 8})) == [("shared memory", 163856, 101376)]
    assert list(fits(H200, {"shared": 0, "tmem_size": 600, "num_warps": 33})) == [
        ("tensor memory", 600, 512),
        ("threads", 1056, 1024),
    ]
    assert list(fits(H200, {"shared": 232448, "tmem_size": None, "num_warps": 32})) == []
