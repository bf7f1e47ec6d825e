"""What a real launch would refuse is refused, and nothing else."""

from __future__ import annotations

from typing import Any

from kopt.evaluate.compilation import Compiled
from kopt.evaluate.launches import violations
from kopt.machine.products import product
from kopt.records import Status


def rules(launch: dict[str, Any] | None = None, **metadata: Any) -> list[tuple[str, Status]]:
    given = {"name": "k", "grid": (132, 1, 1), "allocator": False, "descriptors": [], **(launch or {})}
    compiled = Compiled("id", {"num_warps": 8, "shared": 1024, **metadata}, {})
    return [(rule, status) for rule, _, status in violations(given, compiled, product("h200"))]


def descriptor(**changes: Any) -> dict[str, Any]:
    return {"descriptors": [{"address": 4096, "itemsize": 1, "strides": [4096, 1], **changes}]}


BOX = [{"block_size": [128, 128]}]


def test_an_ordinary_launch_is_allowed() -> None:
    assert rules(descriptor(), tensordesc_meta=BOX) == []


def test_a_grid_has_at_most_65535_blocks_along_y_and_z() -> None:
    assert rules({"grid": (2**31 - 1, 65535, 65535)}) == []
    assert rules({"grid": (1, 65536, 1)}) == [("launch.grid", Status.CRASHED)]
    assert rules({"grid": (1, 1, 65536)}) == [("launch.grid", Status.CRASHED)]


def test_shared_memory_and_threads_above_the_targets_are_compile_errors() -> None:
    assert rules(shared=232449) == [("launch.shared_memory", Status.COMPILE_ERROR)]
    assert rules(num_warps=64) == [("launch.threads", Status.COMPILE_ERROR)]


def test_scratch_memory_needs_an_allocator() -> None:
    assert rules(global_scratch_size=512) == [("launch.allocator", Status.CRASHED)]
    assert rules({"allocator": True}, global_scratch_size=512) == []


def test_tma_wants_boxes_of_at_most_256_and_multiples_of_16_bytes() -> None:
    assert rules(descriptor(), tensordesc_meta=[{"block_size": [512, 64]}]) == [("launch.tma_box", Status.CRASHED)]
    assert rules(descriptor(strides=[4088, 1]), tensordesc_meta=BOX) == [("launch.tma_stride", Status.CRASHED)]
    assert rules(descriptor(strides=[4088, 1], itemsize=2), tensordesc_meta=BOX) == []
    assert rules(descriptor(strides=[4096, 2]), tensordesc_meta=BOX) == [("launch.tma_stride", Status.CRASHED)]
    assert rules(descriptor(address=8), tensordesc_meta=BOX) == [("launch.tma_alignment", Status.CRASHED)]


def test_a_descriptor_that_became_pointers_is_free_of_tmas_rules() -> None:
    assert rules(descriptor(strides=[4088, 1], address=8), tensordesc_meta=[None]) == []
