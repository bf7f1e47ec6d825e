"""The mathematics of MSA against dense attention, and against itself told another way."""

from __future__ import annotations

import pytest
import torch

from kopt.msa import TOP_K, reference, selection


def problem(lens_q, lens_k, heads_q=4, heads_kv=2, seed=0):
    rng = selection.generator(seed, "test")
    q, k, v = selection.normal_qkv(sum(lens_q), sum(lens_k), heads_q, heads_kv, rng)
    return q, k, v, selection.offsets(lens_q), selection.offsets(lens_k)


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("regime", selection.FULL)
def test_up_to_2048_tokens_the_result_is_dense_causal_attention(regime):
    # The last queries of a context of exactly 2,048 tokens, and a short sequence beside it.
    q, k, v, cu_q, cu_k = problem([24, 5], [2048, 5])
    ids = selection.select(regime, cu_q, cu_k, 2, selection.generator(1))
    for got, want in zip(reference.attend(q, k, v, ids, cu_q, cu_k), reference.dense(q, k, v, cu_q, cu_k), strict=True):
        close(got, want)


def test_the_own_block_is_listed_whatever_the_others_score():
    scores = torch.full((1, 1, 40), float("inf"))
    scores[0, 0, 30:] = float("-inf")
    ids = reference.top_blocks(scores, torch.tensor([128 * 29 + 5]))
    assert ids[0, 0].tolist() == [29, *range(TOP_K - 1)]


def test_with_all_blocks_selected_it_is_dense_at_any_length():
    q, k, v, cu_q, cu_k = problem([9, 3], [2700, 300])
    ids = reference.every_block(cu_q, cu_k, 2)
    assert ids.shape[2] > TOP_K
    want = reference.dense(q, k, v, cu_q, cu_k)
    for got, dense in zip(reference.attend(q, k, v, ids, cu_q, cu_k), want, strict=True):
        close(got, dense)
    rows = reference.attend_rows(q, k, v, ids, cu_q, cu_k)
    close(rows.out, want[0])
    close(rows.lse, want[1])


def test_the_index_branch_selects_everything_up_to_2048_tokens_and_its_own_block_always():
    rng = selection.generator(2)
    q = torch.randn((40, 3, 128), generator=rng)
    k = torch.randn((2600, 128), generator=rng)
    cu_q, cu_k = selection.offsets([40]), selection.offsets([2048])
    ids = reference.select(q, k[:2048], cu_q, cu_k)
    assert (ids.sort(-1).values == torch.arange(16)).all()
    ids = reference.select(q, k, cu_q, selection.offsets([2600]))
    own = torch.arange(2560, 2600) // 128
    assert (ids == own[None, :, None]).any(-1).all()
    chunked = reference.block_scores(q, k, cu_q, selection.offsets([2600]), torch.tensor([0, 39]))
    close(chunked, reference.block_max(reference.index_scores(q, k))[:, [0, 39]])
    assert torch.equal(reference.top_blocks(chunked, torch.tensor([2560, 2599])), ids[:, [0, 39]])


@pytest.mark.parametrize("regime", selection.REGIMES)
def test_rows_alone_equal_rows_of_the_whole(regime):
    q, k, v, cu_q, cu_k = problem([7, 0, 40, 1], [2500, 0, 40, 300])
    ids = selection.select(regime, cu_q, cu_k, 2, selection.generator(3))
    want, lse = reference.attend(q, k, v, ids, cu_q, cu_k)
    chosen = torch.tensor([0, 6, 7, 30, 47])
    rows = reference.attend_rows(q, k, v, ids, cu_q, cu_k, chosen)
    close(rows.out, want[chosen])
    close(rows.lse, lse[chosen])
    rough = reference.attend_rows(q, k, v, ids, cu_q, cu_k, chosen, float32=True)
    torch.testing.assert_close(rough.out.double(), want[chosen], rtol=1e-4, atol=1e-5)


def test_partial_results_merge_by_their_lse():
    q, k, v, cu_q, cu_k = problem([30], [400])
    ids = selection.select("random", cu_q, cu_k, 2, selection.generator(4))
    # Block by block; most queries see nothing of some of them.
    parts = [reference.attend(q, k, v, ids[..., i : i + 1], cu_q, cu_k) for i in range(TOP_K)]
    out, lse = reference.merge(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))
    want = reference.attend(q, k, v, ids, cu_q, cu_k)
    close(out, want[0])
    close(lse, want[1])


def test_what_is_not_listed_does_not_show_and_what_is_does():
    q, k, v, cu_q, cu_k = problem([4], [700])
    ids = torch.tensor([[[5, 2, -1, 99]] * 4, [[5, -1, 0, 7]] * 4], dtype=torch.int32)
    want, _ = reference.attend(q, k, v, ids, cu_q, cu_k)
    k[130:256], v[130:256] = float("nan"), float("nan")
    for got in (reference.attend(q, k, v, ids, cu_q, cu_k)[0], reference.attend_rows(q, k, v, ids, cu_q, cu_k).out):
        close(got, want)
    v[650, 0, 3] = float("nan")
    for got in (reference.attend(q, k, v, ids, cu_q, cu_k)[0], reference.attend_rows(q, k, v, ids, cu_q, cu_k).out):
        assert got.isnan().nonzero().tolist() == [[row, head, 3] for row in range(4) for head in (0, 1)]


def test_a_query_that_sees_nothing_gets_zeros():
    # Two queries more than keys, and lists of -1 or of blocks to come.
    q, k, v, cu_q, cu_k = problem([4], [2])
    ids = torch.tensor([[[0]] * 4, [[-1], [0], [3], [-1]]], dtype=torch.int32)
    out, lse = reference.attend(q, k, v, ids, cu_q, cu_k)
    assert out[:2].eq(0).all()
    assert out[:, 2:].eq(0).all()
    assert out[2:, :2].ne(0).all()
    assert lse[:2].eq(float("-inf")).all()
    rows = reference.attend_rows(q, k, v, ids, cu_q, cu_k)
    close(rows.out, out)
    assert not rows.out.isnan().any()
