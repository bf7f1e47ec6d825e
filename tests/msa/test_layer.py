"""A whole MSA layer's attention against the formulas of the model, written out for single queries and heads."""

from __future__ import annotations

import math

import pytest
import torch

from kopt.msa.layer import REFERENCE, MsaAttention

HIDDEN, HEADS = 32, 8


@pytest.fixture(scope="module")
def layer() -> MsaAttention:
    torch.manual_seed(0)
    made = MsaAttention(HIDDEN, HEADS, 1).double()
    for norm in (made.q_norm, made.k_norm, made.index_q_norm, made.index_k_norm):
        torch.nn.init.normal_(norm.weight, std=0.3)
    return made


def head(x: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor, at: int, position: int) -> torch.Tensor:
    """One head of one token [hidden]: projected, normed, its first 64 dimensions turned as complex numbers."""
    y = weight[at * 128 : at * 128 + 128] @ x
    y = y / math.sqrt(float((y * y).mean()) + 1e-6) * (1 + norm)
    low, high = y[:32], y[32:64]
    angle = torch.tensor([position / 5e6 ** (2 * i / 64) for i in range(32)], dtype=torch.float64)
    turned = torch.complex(low, high) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag, y[64:]])


def expected(layer: MsaAttention, x: torch.Tensor, query: int) -> torch.Tensor:
    """The layer's output [hidden] for one token of a sequence x [L, hidden]."""
    w, n = dict(layer.named_parameters()), query + 1
    iq = head(x[query], w["index_q_proj.weight"], w["index_q_norm.weight"], 0, query)
    score = torch.stack([iq @ head(x[j], w["index_k_proj.weight"], w["index_k_norm.weight"], 0, j) for j in range(n)])
    own = query // 128
    best = sorted(range(own), key=lambda b: -float(score[b * 128 : b * 128 + 128].max()))[:15]
    keys = [j for j in range(n) if j // 128 in {own, *best}]
    k = torch.stack([head(x[j], w["k_proj.weight"], w["k_norm.weight"], 0, j) for j in keys])
    v = x[keys] @ w["v_proj.weight"].T
    out = []
    for h in range(HEADS):
        logits = k @ head(x[query], w["q_proj.weight"], w["q_norm.weight"], h, query) / math.sqrt(128)
        out.append(torch.softmax(logits, 0) @ v)
    return w["o_proj.weight"] @ torch.cat(out)


@torch.no_grad()
def test_a_batch_of_short_sequences(layer: MsaAttention) -> None:
    torch.manual_seed(1)
    x = torch.randn(190, HIDDEN, dtype=torch.float64)
    got = layer(x, torch.tensor([0, 150, 150, 190], dtype=torch.int32))
    for start, query in ((0, 0), (0, 149), (150, 3), (150, 39)):
        torch.testing.assert_close(got[start + query], expected(layer, x[start:], query), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_last_queries_of_a_long_context(layer: MsaAttention) -> None:
    torch.manual_seed(2)
    length = 2700
    x = torch.randn(length, HIDDEN, dtype=torch.float64)
    all_ = layer.project(x, torch.arange(length))
    last = slice(length - 2, length)
    cu_q, cu_k = (torch.tensor([0, n], dtype=torch.int32) for n in (2, length))
    got = layer.output(layer.attend(all_.q[last], all_.k, all_.v, all_.iq[last], all_.ik, cu_q, cu_k))
    torch.testing.assert_close(got[1], expected(layer, x, length - 1), rtol=1e-5, atol=1e-6)


def test_it_says_what_it_runs_on(layer: MsaAttention) -> None:
    assert layer.runs_on(torch.zeros(1)) == REFERENCE
    with pytest.raises(ValueError, match="heads: 6 query heads over 1"):
        MsaAttention(HIDDEN, 6, 1)
