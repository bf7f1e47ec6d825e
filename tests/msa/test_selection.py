"""The published generator: what it promises of every list, and the overlap of neighbours that it was made to have."""

from __future__ import annotations

import pytest
import torch

from kopt.msa import BLOCK, arithmetic, reference, selection

LENS_Q, LENS_K = [70, 0, 300, 40], [2400, 0, 300, 40_000]


def lists(regime, lens_q, lens_k, heads=2, seed=0):
    cu_q, cu_k = selection.offsets(lens_q), selection.offsets(lens_k)
    return selection.select(regime, cu_q, cu_k, heads, selection.generator(seed)), cu_q, cu_k


@pytest.mark.parametrize("regime", selection.REGIMES)
def test_lists_are_distinct_visible_left_packed_and_name_the_own_block(regime):
    ids, cu_q, cu_k = lists(regime, LENS_Q, LENS_K)
    assert ids.dtype == torch.int32
    assert ids.shape == (2, 410, 16)
    own = reference.places(cu_q, cu_k, 410).position // BLOCK
    assert (ids <= own[None, :, None]).all()
    assert (ids == own[None, :, None]).sum(-1).eq(1).all()
    valid = ids >= 0
    assert (valid[..., :-1] | ~valid[..., 1:]).all(), "a number stands to the right of a -1"
    ordered = ids.sort(-1).values
    assert ((ordered[..., 1:] != ordered[..., :-1]) | (ordered[..., 1:] < 0)).all()
    again, _, _ = lists(regime, LENS_Q, LENS_K)
    other, _, _ = lists(regime, LENS_Q, LENS_K, seed=1)
    assert torch.equal(ids, again)
    assert not torch.equal(ids, other)


@pytest.mark.parametrize("regime", selection.REGIMES)
def test_pairs_are_counted_exactly_without_looking_at_a_list(regime):
    ids, cu_q, cu_k = lists(regime, LENS_Q, LENS_K)
    want = sum(arithmetic.regime_pairs(regime, q, k) for q, k in zip(LENS_Q, LENS_K, strict=True))
    assert reference.count_pairs(ids, cu_q, cu_k) == [want, want]


def test_pairs_of_the_whole_context_are_those_of_the_paper():
    # 4 * 64 * 128 FLOPs a pair; teraFLOPs by context.
    for tokens, main, dense in ((8192, 0.47, 1.10), (131072, 8.46, 281.5), (1048576, 68.1, 18014.4)):
        assert arithmetic.attend_flops(arithmetic.selected_pairs(tokens, tokens), 64) / 1e12 == pytest.approx(
            main, 0.01
        )
        assert arithmetic.attend_flops(arithmetic.causal_pairs(tokens, tokens), 64) / 1e12 == pytest.approx(dense, 0.01)


@pytest.mark.parametrize(
    ("regime", "of_4", "of_8"),
    [("random", (59, 61), (113, 117)), ("m3_like", (21, 23), (25, 27)), ("hot_block", (16, 16.2), (16, 16.2))],
)
def test_neighbours_overlap_as_published(regime, of_4, of_8):
    ids, _, _ = lists(regime, [1024], [131072])
    for tile, (low, high) in ((4, of_4), (8, of_8)):
        sizes = [len(set(tile_ids.flatten().tolist())) for tile_ids in ids[0].split(tile)]
        assert low <= sum(sizes) / len(sizes) <= high


@pytest.mark.parametrize("regime", selection.REGIMES)
def test_what_has_to_be_read_is_estimated_within_a_tenth(regime):
    for len_q, len_k in ((512, 131072), (4096, 131072), (1000, 1000)):
        ids, _, _ = lists(regime, [len_q], [len_k])
        found = sum(len(set(head.flatten().tolist()) - {-1}) for head in ids) / 2
        assert arithmetic.touched_blocks(regime, len_q, len_k) == pytest.approx(found, rel=0.1)


def test_traffic_of_the_loop_orders_is_that_of_the_paper():
    gib = 2.0**30
    assert arithmetic.q_outer_bytes(131072, 64, 4) / gib == pytest.approx(516, 0.01)
    assert arithmetic.kv_outer_bytes(131072, 131072, 64, 4) / gib == pytest.approx(98, 0.01)
    assert arithmetic.partial_bytes(1048576, 64) / gib == pytest.approx(260, 0.01)
    # A chunk of 4,096 queries: 17.3 GB one by one, 3.5 GB by eights of which 26 blocks are listed.
    assert arithmetic.q_outer_bytes(4096, 64, 4) / 1e9 == pytest.approx(17.3, 0.01)
    assert arithmetic.union_bytes(4096, 64, 4, 8, 26) / 1e9 == pytest.approx(3.6, 0.02)


def test_outliers_reach_ten_thousand_on_both_sides():
    rng = selection.generator(5)
    q, k, _ = selection.normal_qkv(64, 256, 4, 1, rng)
    selection.outlier_qk(q, k, rng)
    logits = q.double().flatten(0, 1) @ k.double()[:, 0].T / 128**0.5
    assert 9e3 < logits.max() < 1.2e4
    assert -1.2e4 < logits.min() < -9e3
