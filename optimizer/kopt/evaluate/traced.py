"""What an untrusted worker reports of a trace, brought into form. Every word of it comes from a process that ran the
candidate; only its form is checked here, and what matters is decided from recompiled code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROBES = ("fresh", "same", "rewritten", "benchmark", "test_correctness")
"""Circumstances in which the kinds of work are compared; the last two are names of callers."""
_ARGUMENTS = 256
"""Of one launch that are read."""


def checked(value: Mapping[str, Any]) -> dict[str, Any]:
    """The report, every field of its type. KeyError, TypeError, ValueError or AttributeError where that cannot be."""
    shapes = {
        str(name): {
            "first": [_event(e) for e in seen["first"]],
            "steady": [_event(e) for e in seen["steady"]],
            "host_us": None if seen["host_us"] is None else _number(seen["host_us"]),
            "tensors": [(int(address), int(nbytes)) for address, nbytes in seen["tensors"]],
        }
        for name, seen in value["shapes"].items()
    }
    probes = {name: [str(kind) for kind in value["probes"][name]] for name in PROBES} if value["probes"] else {}
    return {
        "shapes": shapes,
        "probes": probes,
        "notes": [str(note)[:300] for note in value["notes"][:20]],
        "swallowed": [_exception(e) for e in value["swallowed"][:20]],
        "error": _exception(value["error"]) if value["error"] else None,
    }


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    if "aten" in event:
        return {
            "aten": str(event["aten"]), "elements": int(event["elements"]), "bytes": int(_number(event["bytes"])),
            "fill": _argument(event["fill"]) if event.get("fill") else None,
        }  # fmt: skip
    x, y, z = (_number(extent) for extent in event["grid"])
    descriptors = [
        {
            "address": int(d["address"]),
            "itemsize": int(d["itemsize"]),
            "strides": [int(s) for s in d["strides"]],
        }
        for d in event["descriptors"]
    ]
    return {
        "launch": str(event["launch"]),
        "name": str(event["name"])[:200],
        "grid": (int(x), int(y), int(z)),
        "allocator": bool(event["allocator"]),
        "descriptors": descriptors,
        "arguments": [_argument(a) for a in event["arguments"][:_ARGUMENTS]],
    }


def _argument(argument: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Of what `worker/recording.py` writes down; every kind has all of its keys, or it was not written there."""
    kind = str(argument["type"])[:200]
    if kind == "unknown":
        return {"type": kind, "unknown": str(argument["unknown"])[:200]}
    if kind == "tuple":
        if depth > 4:
            raise ValueError("tuples within tuples")
        return {"type": kind, "items": [_argument(a, depth + 1) for a in argument["items"][:_ARGUMENTS]]}
    if kind == "constexpr":
        return {"type": kind, "value": _scalar(argument["value"]), "plain": bool(argument["plain"])}
    if kind == "fill":
        extent, value = int(argument["extent"]), _scalar(argument["value"])
        return {"type": kind, **_memory(argument), "extent": extent, "value": value}
    if kind.startswith("tensordesc"):
        sizes = {key: [int(n) for n in argument[key][:8]] for key in ("shape", "strides", "block")}
        return {"type": kind, **_memory(argument), **sizes, **{key: bool(argument[key]) for key in ("nan", "tf32")}}
    if kind.startswith("*"):
        return {"type": kind, **_memory(argument)}
    return {"type": kind, "value": _scalar(argument["value"])}


def _memory(argument: Mapping[str, Any]) -> dict[str, Any]:
    places = {key: int(argument[key]) for key in ("address", "storage", "nbytes")}
    return {**places, "dtype": str(argument["dtype"])[:40]}


def _scalar(value: Any) -> bool | int | float | str | None:
    if not isinstance(value, bool | int | float | str | None):
        raise TypeError("an argument's value is no scalar")
    return value


def _exception(error: Mapping[str, Any]) -> dict[str, str]:
    line = error.get("line")
    return {
        "type": str(error["type"])[:100],
        "message": str(error["message"])[:400],
        "place": f"line {int(line)}" if line else "",
        "shape": str(error.get("shape", "")),
    }


def operations(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The elements of the largest tensor of each ATen operation."""
    found: dict[str, int] = {}
    for event in events:
        if "aten" in event:
            found[event["aten"]] = max(found.get(event["aten"], 0), event["elements"])
    return found


def _number(value: Any) -> float:
    """ValueError for what no count and no time can be."""
    number = float(value)
    if not 0 <= number < 2**53:
        raise ValueError(value)
    return number
