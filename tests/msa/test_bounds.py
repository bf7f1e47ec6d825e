"""The bound on errors, against errors that are made on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kopt.msa import BLOCK, HEAD_DIM
from kopt.msa.reference import attend_rows
from kopt.msa.rounding import allowed


@pytest.mark.parametrize("alike", [1, 3])
def test_rounded_weights_stay_within_eight_standard_deviations_also_of_copied_blocks(alike: int) -> None:
    rng = torch.Generator().manual_seed(1)
    rows, blocks = 400, 9
    q = torch.randn(rows, 1, HEAD_DIM, generator=rng)
    k, v = (torch.randn(blocks // alike, 1, BLOCK, 1, HEAD_DIM, generator=rng) for _ in range(2))
    k, v = (t.expand(-1, alike, -1, -1, -1).reshape(-1, 1, HEAD_DIM) for t in (k, v))
    ids = torch.arange(blocks, dtype=torch.int32).expand(1, rows, -1)
    # All queries see all keys but for the last one's worth of rows.
    cu_q, cu_k = torch.tensor([0, rows]), torch.tensor([0, len(k)])
    seen = torch.arange(rows) + len(k) - rows
    exact = attend_rows(q, k, v, ids, cu_q, cu_k)
    scores = (q[:, 0] @ k[:, 0].T * HEAD_DIM**-0.5).masked_fill(torch.arange(len(k)) > seen[:, None], float("-inf"))
    weights = (scores - scores.amax(1, keepdim=True)).exp()
    rounded = weights.bfloat16().double() @ v[:, 0].double() / weights.double().sum(1, keepdim=True)
    error = rounded - exact.out[:, 0]
    # Of the bound, what stands for the weights alone: neither partial results nor out nor logits are rounded here.
    nothing = torch.zeros_like(exact.out)
    walk = allowed(replace(exact, out=nothing, parts=nothing, size=nothing, faint=nothing), alike)[:, 0]
    deviations = 8 * (error / walk).square().mean().sqrt().item()
    assert 0.5 < deviations < 1.05


def test_weights_in_fp16_vanish_where_the_heaviest_value_is_zero() -> None:
    rng = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(n, 1, HEAD_DIM, generator=rng) for n in (1, BLOCK, BLOCK))
    k[5] = 12 * q[0, 0]  # a logit of a hundred and more
    v[5, 0, :64] = 0.0  # as one element in a thousand of an e4m3 cache is
    ids, cu_q, cu_k = torch.zeros(1, 1, 1, dtype=torch.int32), torch.tensor([0, 1]), torch.tensor([0, BLOCK])
    exact = attend_rows(q, k, v, ids, cu_q, cu_k)
    scores = (q[0, 0] @ k[:, 0].T * HEAD_DIM**-0.5).double()
    halves = (scores - scores.max()).exp().half().double() @ v[:, 0].double()
    assert not halves[:64].any()
    assert exact.out[0, 0, :64].all()
    bound = allowed(exact)[0, 0]
    assert ((halves - exact.out[0, 0]).abs() <= bound).all()
    assert bound[:64].max() < 1e-6  # of values of about one
