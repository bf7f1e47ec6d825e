"""The Q-outer family, honest variants of it, and mutants: each a few words away, each wrong in a way of its own."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "kernels" / "msa_attend" / "q_outer.py"

Edit = tuple[tuple[str, str], ...]

_SEEN = "seen = good & (inside <= position)"
_COUNT = "count = tl.max(tl.where((listed >= 0) & (listed <= own), slots + 1, 0), axis=0)"
_BLOCK = "block = tl.load(list_ptr + step // PARTS)"
_MAXIMUM = "larger = tl.maximum(highest, tl.max(scores, axis=1))"
_AT = "at = ((start + inside).to(tl.int64) * HKV + head)"
_STORE = "tl.store(out_ptr + at_q,"
_NAMED = "(listed >= 0) & (listed <= own)"
_GOOD = "good = (block >= 0) & (block <= own)"
_POSITION = "position = length - tl.load(cu_q_ptr + sequence + 1) + token"
_V = "v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=seen[:, None]"
_TOTAL = "total = total * shrink + tl.sum"
_LOOP = "for step in range(count * PARTS):"
_FIRST_ROW = 'tl.max(tl.max(tl.where(rows[:, None] == 0, scores, float("-inf")), axis=1), axis=0)'

HONEST: dict[str, Edit] = {
    "the family": (),
    "blocks walked backwards": ((_BLOCK, "block = tl.load(list_ptr + count - 1 - step // PARTS)"),),
    "every entry walked": ((_COUNT, "count = TOP_K"),),
}

MUTANTS: dict[str, Edit] = {
    "causal mask one too far": ((_SEEN, "seen = good & (inside <= position + 1)"),),
    "causal mask one short": ((_SEEN, "seen = good & (inside < position)"),),
    "own block without its mask": ((_SEEN, "seen = good & (inside < length)"),),
    "own block left out": (("(block <= own)", "(block < own)"),),
    "-1 taken for block 0": (
        (_COUNT, "count = TOP_K"),
        (_BLOCK, "block = tl.maximum(0, tl.load(list_ptr + step // PARTS))"),
    ),
    "list ends at its first hole": ((_COUNT, f"count = tl.sum(({_NAMED}).to(tl.int32), axis=0)"),),
    "last entry dropped": ((_COUNT, _COUNT + "\n    count = tl.minimum(count, TOP_K - 1)"),),
    "blocks to come read": (
        (_GOOD, "good = block >= 0"),
        (_SEEN, "seen = good & (inside <= position + 128) & (inside < length)"),
    ),
    "heads of a group swapped": ((_STORE, _STORE.replace("at_q", "at_q + (1 - rows[:, None] % 2 * 2) * HEAD_DIM")),),
    "scale missing": (("tl.dot(q, k) * SCALE", "tl.dot(q, k) * 1.4426950408889634"),),
    "exponential of base 2": (("0.08838834764831845 * 1.4426950408889634", "0.08838834764831845"),),
    "softmax shifted by another row's maximum": ((_MAXIMUM, f"larger = tl.maximum(highest, {_FIRST_ROW})"),),
    "softmax not shifted": ((_MAXIMUM, 'larger = tl.where(tl.max(scores, axis=1) == float("-inf"), highest, 0.0)'),),
    "second KV head ignored": ((_AT, _AT.replace("+ head", "+ 0")),),
    "lists of the first KV head for all": (("(head.to(tl.int64) * T + token)", "(0 * T + token).to(tl.int64)"),),
    "keys of the first sequence for all": ((_AT, _AT.replace("start + inside", "inside")),),
    "queries at the beginning of their context": ((_POSITION, "position = token - tl.load(cu_q_ptr + sequence)"),),
    "first query of a sequence given to the one before": (("begins <= token", "begins < token"),),
    "sum of the last block alone": ((_TOTAL, "total = tl.sum"),),
    "sum not rescaled": ((_TOTAL, "total = total + tl.sum"),),
    "accumulator not rescaled": (("acc * shrink[:, None])\n", "acc)\n"),),
    "zeros divided by zero": (("tl.where(total == 0.0, 1.0, total)", "total"),),
    "values that are not seen multiplied by zero": (
        (_V, _V.replace("seen[:, None]", "((block >= 0) & (inside < length))[:, None]")),
    ),
    "NaN swept under the carpet": ((_STORE, "acc = tl.where(acc == acc, acc, 0.0)\n    " + _STORE),),
    "weights rounded to three bits": (("weights.to(tl.bfloat16), v", "weights.to(tl.float8e5).to(tl.bfloat16), v"),),
    "the last part of each list left out": ((_LOOP, "for step in range(count * PARTS - 1):"),),
}

NAMED = {
    "the family", "causal mask one too far", "own block without its mask", "-1 taken for block 0", "scale missing",
    "heads of a group swapped", "softmax shifted by another row's maximum", "second KV head ignored",
}  # fmt: skip
"""Checked in every run of the tests; the others in the longer ones."""


def edited(edits: Edit) -> str:
    """The family with the edits made; one that no longer applies is an error of the test."""
    source = SOURCE.read_text()
    for old, new in edits:
        if old not in source:
            raise AssertionError(f"no place for {old!r}")
        source = source.replace(old, new)
    return source
