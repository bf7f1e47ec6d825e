"""What an untrusted worker reports of a trace, brought into form. Every word of it comes from a process that ran the
candidate; only its form is checked here, and what matters is decided from recompiled code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kopt.evaluate.hearsay import LARGEST, Nonsense, amount, count, items, scalar, table, text, understood, whole

PROBES = ("fresh", "same", "rewritten", "benchmark", "test_correctness")
"""Circumstances in which the kinds of work are compared; the last two are names of callers."""
_ARGUMENTS = 256
"""Of one launch that are read."""
_EVENTS = 20_000
"""Of one call; no more are recorded."""
_MANY = 20
"""Notes and exceptions that are worth telling."""


def checked(value: Mapping[str, Any]) -> dict[str, Any]:
    """The report, every field of its type and of a size that can be; Nonsense where that is not so."""
    with understood():
        shapes = {
            name: {
                "first": [_event(e) for e in items(seen["first"], _EVENTS)],
                "steady": [_event(e) for e in items(seen["steady"], _EVENTS)],
                "host_us": None if seen["host_us"] is None else amount(seen["host_us"]),
                "tensors": [(count(address), count(nbytes)) for address, nbytes in items(seen["tensors"], _ARGUMENTS)],
            }
            for name, seen in table(value["shapes"]).items()
        }
        probes = value["probes"] or {}
        return {
            "shapes": shapes,
            "probes": {name: [text(k) for k in items(probes[name], _EVENTS)] for name in PROBES} if probes else {},
            "notes": [text(note) for note in items(value["notes"], _MANY)],
            "swallowed": [_exception(e) for e in items(value["swallowed"], _MANY)],
            "error": _exception(value["error"]) if value["error"] else None,
        }


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    if "aten" in event:
        return {
            "aten": text(event["aten"], 100), "elements": count(event["elements"]), "bytes": count(event["bytes"]),
            "fill": _fill(event["fill"]) if event.get("fill") else None,
        }  # fmt: skip
    x, y, z = (_extent(extent) for extent in event["grid"])
    return {
        "launch": text(event["launch"], 64),
        "name": text(event["name"], 200),
        "grid": (x, y, z),
        "allocator": bool(event["allocator"]),
        "descriptors": [_descriptor(d) for d in items(event["descriptors"], _ARGUMENTS)],
        "arguments": [_argument(a) for a in items(event["arguments"], _ARGUMENTS)],
    }


def _extent(extent: Any) -> int:
    """Of a grid. What is beyond any stands as the largest number there is: the launch is found and named for it."""
    if not isinstance(extent, int):
        raise Nonsense("a grid is none")
    return max(-1, min(extent, LARGEST))


def _descriptor(descriptor: Mapping[str, Any]) -> dict[str, Any]:
    strides = [whole(stride) for stride in items(descriptor["strides"], 8)]
    if not strides:
        raise Nonsense("a descriptor of no dimensions")
    return {
        "address": count(descriptor["address"]),
        "itemsize": count(descriptor["itemsize"]),
        "strides": strides,
    }


def _argument(argument: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Of what `worker/recording.py` writes down; every kind has all of its keys, or it was not written there."""
    kind = text(argument["type"], 200)
    if kind == "unknown":
        return {"type": kind, "unknown": text(argument["unknown"], 200)}
    if kind == "tuple":
        if depth > 4:
            raise Nonsense("tuples within tuples")
        return {"type": kind, "items": [_argument(a, depth + 1) for a in items(argument["items"], _ARGUMENTS)]}
    if kind == "constexpr":
        return {"type": kind, "value": scalar(argument["value"]), "plain": bool(argument["plain"])}
    if kind.startswith("tensordesc"):
        sizes = {key: [whole(n) for n in items(argument[key], 8)] for key in ("shape", "strides", "block")}
        return {"type": kind, **_memory(argument), **sizes, **{key: bool(argument[key]) for key in ("nan", "tf32")}}
    if kind.startswith("*"):
        return {"type": kind, **_memory(argument)}
    return {"type": kind, "value": scalar(argument["value"])}


def _fill(fill: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "fill", **_memory(fill), "extent": count(fill["extent"]), "value": scalar(fill["value"])}


def _memory(argument: Mapping[str, Any]) -> dict[str, Any]:
    places = {key: count(argument[key]) for key in ("address", "storage", "nbytes")}
    return {**places, "dtype": text(argument["dtype"], 40)}


def _exception(error: Mapping[str, Any]) -> dict[str, str]:
    line = error.get("line")
    return {
        "type": text(error["type"], 100),
        "message": text(error["message"], 400),
        "place": f"line {count(line)}" if line else "",
        "shape": text(error.get("shape", "")),
    }


def operations(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The elements of the largest tensor of each ATen operation."""
    found: dict[str, int] = {}
    for event in events:
        if "aten" in event:
            found[event["aten"]] = max(found.get(event["aten"], 0), event["elements"])
    return found
