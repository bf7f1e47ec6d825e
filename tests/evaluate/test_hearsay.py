"""What an untrusted process says is of its form, or it is Nonsense; it is never an exception of another kind."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kopt.evaluate.hearsay import LARGEST, Nonsense, scalar, understood
from kopt.evaluate.traced import checked
from kopt.evaluate.worker.channel import FrameError, parse

POINTER = {"type": "*fp32", "address": 1 << 40, "storage": 1 << 40, "nbytes": 256, "dtype": "float32"}
FILL = {"type": "fill", "address": 1, "storage": 1, "nbytes": 4, "dtype": "int32", "extent": 1, "value": 0}
REPORT: dict[str, Any] = {
    "shapes": {
        "s": {
            "first": [],
            "steady": [
                {"aten": "zero_", "elements": 64, "bytes": 256, "fill": FILL},
                {
                    "launch": "k", "name": "kernel", "grid": [1, 1, 1], "allocator": False, "arguments": [POINTER],
                    "descriptors": [{"address": 16, "itemsize": 1, "strides": [128, 1]}],
                },
            ],
            "host_us": 1.0,
            "tensors": [[1 << 40, 256]],
        }
    },
    "probes": None, "notes": ["n"], "swallowed": [{"type": "E", "message": "m", "line": 3}], "error": None,
}  # fmt: skip


def deep(depth: int) -> Any:
    """A list that can be parsed and not printed."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a report."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))] if at else [
        place for key, item in inner for place in places(item, (key,))
    ]  # fmt: skip


def forged(at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    holder: Any = report
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    return report


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 10**400, -(10**400), float("inf"), float("nan"), 1e300, "", "x" * 10_000, [], {}, deep(5000), [[]],
     {"type": "unknown", "unknown": deep(5000)}, {"type": "constexpr", "value": 10**400, "plain": True}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_report_with_anything_in_any_place_is_checked_or_nonsense(value: Any) -> None:
    for at in places(REPORT):
        try:
            found = checked(forged(at, value))
        except Nonsense:
            continue
        assert len(json.dumps(found, allow_nan=False)) < 10_000


def test_the_report_itself_passes() -> None:
    assert checked(REPORT)["shapes"]["s"]["tensors"] == [(1 << 40, 256)]


def test_a_grid_beyond_numbers_is_kept_as_the_largest_number_so_that_its_launch_is_named() -> None:
    found = checked(forged(("shapes", "s", "steady", 1, "grid"), [10**400, 1, -(10**400)]))
    assert found["shapes"]["s"]["steady"][1]["grid"] == (LARGEST, 1, -1)


@given(st.integers(min_value=-(10**500), max_value=10**500))
def test_an_integer_argument_fits_a_word_or_is_words(value: int) -> None:
    kept = scalar(value)
    assert kept == value if abs(value) < 1 << 64 else isinstance(kept, str)


def test_what_goes_wrong_while_a_report_is_taken_apart_is_nonsense() -> None:
    with pytest.raises(Nonsense, match="RecursionError"), understood():
        str(deep(5000))


@pytest.mark.parametrize("body", [b'{"a": "\xed\xa0\x80"}', '{"a": "\\ud800"}'.encode("utf-16")])
def test_a_frame_in_another_encoding_than_utf_8_is_none(body: bytes) -> None:
    with pytest.raises(FrameError):
        parse(body)
