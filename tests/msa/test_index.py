"""Lists of blocks are judged by their scores: right ones pass in any order, each kind of wrong one is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kopt import content
from kopt.evaluate import hooks

if sys.platform != "linux":
    pytest.skip("evaluation is for Linux", allow_module_level=True)

import torch

from kopt.msa.index import choose, faults, scored
from kopt.msa.reference import block_max, index_scores, select

torch.set_num_threads(1)
TASK = content.load_task("msa_index", Path(__file__))
HOOKS = hooks.load(TASK)
LONG = {"T": 70, "S": 2600, "HKV": 2, "OFFSETS": 2}
RAGGED = {"T": 45, "S": 3700, "HKV": 2, "OFFSETS": 7}
SHORT = {"T": 9, "S": 400, "HKV": 4, "OFFSETS": 2}
ORPHANS = {"T": 150, "S": 140, "HKV": 3, "OFFSETS": 3}


def rules(inputs: dict[str, Any], ids: torch.Tensor, *, exact: bool = False) -> list[str]:
    return [fault["rule"].removeprefix("msa_index.") for fault in faults(**inputs, ids=ids, exact=exact)]


@pytest.mark.parametrize(
    ("dims", "family"),
    [*((LONG, family) for family in HOOKS.FAMILIES), (RAGGED, "spikes"), (SHORT, "nonfinite"), (ORPHANS, "normal")],
)
def test_the_reference_passes_in_any_order(dims: dict[str, int], family: str) -> None:
    inputs = HOOKS.make_inputs(dims, family, 3, "cpu")
    ids = choose(**inputs)
    assert rules(inputs, ids, exact=family in HOOKS.EXACT) == []
    count = (ids >= 0).sum(-1, keepdim=True)
    slot = torch.arange(16)
    turned = ids.gather(-1, torch.where(slot < count, (slot + 1) % count.clamp(min=1), slot))
    assert rules(inputs, turned, exact=family in HOOKS.EXACT) == []


@pytest.mark.parametrize("dims", [LONG, RAGGED])
def test_some_lists_are_checked_as_all_are(dims: dict[str, int]) -> None:
    inputs = HOOKS.make_inputs(dims, "integers", 4, "cpu")
    ids = choose(**inputs)
    rows = torch.randperm(dims["T"])[:7]
    assert HOOKS.check_slices(inputs, {"ids": ids[:, rows]}, dims, "integers", "T", rows) == []
    shifted = ids[:, (rows + 1) % dims["T"]]
    wrong = ids.clone()
    wrong[:, rows] = shifted
    want = {fault["rule"] for fault in HOOKS.check(inputs, {"ids": wrong}, {}, dims, "integers")}
    got = HOOKS.check_slices(inputs, {"ids": shifted}, dims, "integers", "T", rows)
    assert {fault["rule"] for fault in got} == want != set()


@pytest.mark.parametrize("dims", [LONG, RAGGED, SHORT, ORPHANS])
def test_the_reference_is_the_published_definition(dims: dict[str, int]) -> None:
    inputs = HOOKS.make_inputs(dims, "normal", 1, "cpu")
    want = select(inputs["iq"], inputs["ik"], inputs["cu_q"], inputs["cu_k"])
    assert torch.equal(choose(**inputs).sort(-1).values, want.sort(-1).values)


def test_a_score_in_fp32_is_within_its_bound() -> None:
    inputs = HOOKS.make_inputs(LONG, "outliers", 5, "cpu")
    q, k = (inputs[name].float() for name in ("iq", "ik"))
    scores = block_max(torch.where(index_scores(q, k).isfinite(), q.transpose(0, 1) @ k.T, float("-inf")))
    wide = {**inputs, "iq": inputs["iq"].double(), "ik": inputs["ik"].double()}
    (part,) = scored(**wide)
    seen = part.score > float("-inf")
    assert ((scores.double() - part.score).abs()[seen] <= part.error[seen]).all()


def by(scores: Callable[[torch.Tensor], torch.Tensor], inputs: dict[str, Any], own: bool = True) -> torch.Tensor:
    """The 16 best blocks of one sequence by other block scores, from token scores [H, T, keys]."""
    q, k = inputs["iq"], inputs["ik"]
    position = torch.arange(q.shape[0]) + k.shape[0] - q.shape[0]
    found = scores(index_scores(q, k))
    if own:
        found[:, torch.arange(len(position)), position // 128] = float("inf")
    return found.topk(16).indices.int()


def mean(token: torch.Tensor) -> torch.Tensor:
    blocks = torch.nn.functional.pad(token, (0, -token.shape[-1] % 128), value=float("-inf")).unflatten(-1, (-1, 128))
    seen = blocks > float("-inf")
    return torch.where(seen.any(-1), torch.where(seen, blocks, 0).sum(-1) / seen.sum(-1).clamp(min=1), float("-inf"))


def shifted(token: torch.Tensor) -> torch.Tensor:
    """Blocks that begin a token too late."""
    return block_max(torch.cat([token[..., 1:], token[..., :1]], -1))


def worst(inputs: dict[str, Any]) -> torch.Tensor:
    (part,) = scored(**inputs)
    return part.score.masked_fill(part.score == float("-inf"), float("inf")).argmin(-1, keepdim=True).int()


WRONG = {
    "the mean of a block": (lambda inputs, ids: by(mean, inputs), "exact"),
    "blocks a token too late": (lambda inputs, ids: by(shifted, inputs), "exact"),
    "the first 16": (lambda inputs, ids: torch.arange(16).int().expand(ids.shape), "own"),
    "the last 16": (lambda inputs, ids: (ids.max(-1, keepdim=True).values - torch.arange(16)).int(), "exact"),
    "one head's list for all": (lambda inputs, ids: ids[:1].expand_as(ids), "exact"),
    "the neighbour's list": (lambda inputs, ids: ids.roll(20, 1), "own"),
    "one block further": (lambda inputs, ids: ids + 1, "visible"),
    "one block twice": (lambda inputs, ids: ids.index_copy(-1, torch.tensor([15]), ids[..., 14:15]), "distinct"),
    "a place left free": (lambda inputs, ids: ids.index_fill(-1, torch.tensor([15]), -1), "packed"),
    "free places first": (lambda inputs, ids: ids.roll(1, -1).index_fill(-1, torch.tensor([0]), -1), "packed"),
    "the worst one last": (lambda inputs, ids: ids.index_copy(-1, torch.tensor([15]), worst(inputs)), "exact"),
    "the own block not forced": (lambda inputs, ids: by(block_max, inputs, own=False), "own"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    make, rule = WRONG[name]
    inputs = HOOKS.make_inputs(LONG, "spikes", 7, "cpu")
    assert rule in rules(inputs, make(inputs, choose(**inputs)), exact=True)


def test_a_worse_block_is_named_with_scores_and_bound_where_lists_need_not_be_exact() -> None:
    inputs = HOOKS.make_inputs(LONG, "normal", 7, "cpu")
    ids = choose(**inputs)
    ids[1, 33, 15] = next(b for b in range(20) if b not in ids[1, 33].tolist())
    (fault,) = faults(**inputs, ids=ids, exact=False)
    assert fault["rule"] == "msa_index.score"
    assert fault["place"].startswith("token 33 (position 2563) head 1 block ")
    assert float(fault["got"]) + float(fault["bound"]) < float(fault["want"].removeprefix("at least "))


def test_a_query_before_every_key_has_an_empty_list() -> None:
    inputs = HOOKS.make_inputs(ORPHANS, "normal", 0, "cpu")
    ids = choose(**inputs)
    assert (ids[:, 30 : 30 + 106] == -1).all()
    ids[2, 40, 0] = 0
    assert rules(inputs, ids) == ["packed"]


def test_nan_changes_no_list_but_those_it_is_in() -> None:
    inputs = HOOKS.make_inputs(LONG, "normal", 2, "cpu")
    clean = choose(**inputs)
    inputs["iq"][5, 1, 0] = float("nan")
    inputs["ik"][300] = float("nan")  # one token of block 2
    found = choose(**inputs)
    other = torch.ones(clean.shape[:2], dtype=torch.bool)
    other[1, 5] = False
    without = [set(row.tolist()) - {2} for row in found[other]]
    assert all(2 in row or w == set(row) for row, w in zip(clean[other].tolist(), without, strict=True))
    assert (found[1, 5] >= 0).all()


def test_lengths_add_up_and_have_an_empty_sequence_and_one_of_one_query() -> None:
    for dims in (RAGGED, {"T": 3001, "S": 70001, "HKV": 4, "OFFSETS": 9}, {"T": 1, "S": 900, "HKV": 1, "OFFSETS": 12}):
        len_q, len_k = HOOKS.lengths(dims)
        assert (sum(len_q), sum(len_k)) == (dims["T"], dims["S"])
        assert len_q[:3] == [1, 0, 0]
        assert len_k[2] == 0 < len_k[1]
        assert all(0 <= q <= k for q, k in zip(len_q, len_k, strict=True))


def test_cost_counts_visible_pairs() -> None:
    dims = {"T": 300, "S": 1000, "HKV": 2, "OFFSETS": 2}
    assert HOOKS.cost(dims)["flops"] == 2 * 2 * 128 * sum(range(701, 1001))
