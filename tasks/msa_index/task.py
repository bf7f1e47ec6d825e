"""Hooks of the MSA index task: sequences, index queries and keys; lists are checked by their scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from kopt.msa import BLOCK, HEAD_DIM, TOP_K
from kopt.msa.arithmetic import causal_pairs, index_flops
from kopt.msa.index import choose, faults
from kopt.msa.selection import generator, offsets

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Dims = dict[str, int]

# Any queries go with any keys of the same sequences, whose lengths follow from the sizes alone.
GROUPS = (("iq",), ("ik", "cu_q", "cu_k"))
EXACT = ("integers", "ties", "spikes")
# What a query lists depends on no other query.
SEPARABLE = ("T",)


def make_inputs(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """iq [T, HKV, 128] and ik [S, 128] bf16, cu_q and cu_k [OFFSETS] int32; a seed gives the same on one device."""
    import torch

    rng = generator(seed, "msa_index", family, device=device)
    queries = torch.empty((dims["T"], dims["HKV"], HEAD_DIM), device=device)
    keys = torch.empty((dims["S"], HEAD_DIM), device=device)
    FAMILIES[family](queries, keys, rng)
    return {"iq": queries.bfloat16(), "ik": keys.bfloat16(), **make_integers(dims, family, seed, device)}


def make_integers(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """cu_q and cu_k alone."""
    return {name: offsets(of, device) for name, of in zip(("cu_q", "cu_k"), lengths(dims), strict=True)}


def lengths(dims: Dims) -> tuple[list[int], list[int]]:
    """Queries and keys of each sequence: uneven, no fewer keys than queries unless S is less than T.

    From five sequences on the first has one query, the second keys and no query, the third nothing.
    """
    count, tokens, keys = dims["OFFSETS"] - 1, dims["T"], dims["S"]
    of_q, of_k = ([(1 + (step * i + 2) % 7) ** 2 for i in range(count)] for step in (3, 5))
    if count < 5:
        len_q = shared(tokens, of_q)
    else:
        len_q = [1, 0, 0, *shared(tokens - 1, of_q[3:])]
        of_k[2] = 0
    extra = shared(max(0, keys - tokens), of_k)
    len_k = [q + more for q, more in zip(len_q, extra, strict=True)] if keys >= tokens else shared(keys, of_k)
    return len_q, len_k


def shared(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to the weights that add up to `total`."""
    ends = [total * w // sum(weights) for w in accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def reference(inputs: Tensors, dims: Dims) -> Tensors:
    """ids [HKV, T, 16]: the own block, then the best others, -1 to the right. One right answer of several."""
    return {"ids": choose(**inputs)}


def check(inputs: Tensors, got: Tensors, want: Tensors, dims: Dims, family: str) -> list[dict[str, Any]]:
    """What is wrong with got["ids"]; README.md has the rule."""
    return faults(**inputs, ids=got["ids"], exact=family in EXACT)


def check_slices(
    inputs: Tensors, got: Tensors, dims: Dims, family: str, dim: str, index: torch.Tensor
) -> list[dict[str, Any]]:
    """The same of the lists of some queries: got["ids"] is [HKV, len(index), 16]."""
    return faults(**inputs, ids=got["ids"], exact=family in EXACT, rows=index)


def cost(dims: Dims) -> dict[str, float]:
    """Index products of all visible pairs; queries and keys once, offsets and lists."""
    pairs = sum(causal_pairs(q, k) for q, k in zip(*lengths(dims), strict=True))
    read = sum(k for q, k in zip(*lengths(dims), strict=True) if q) + dims["T"] * dims["HKV"]
    return {
        "flops": index_flops(pairs, dims["HKV"]),
        "read": 2.0 * HEAD_DIM * read + 8.0 * dims["OFFSETS"],
        "written": 4.0 * TOP_K * dims["HKV"] * dims["T"],
    }


# Families fill queries [T, HKV, 128] and keys [S, 128], fp32, in place. Integers of up to 256 are exact in bf16, and
# sums of 128 of their products in fp32.


def normal(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """What head-wise RMS norm makes of them."""
    queries.normal_(generator=rng)
    keys.normal_(generator=rng)


def integers(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """Integers from -8 to 8: every honest kernel finds the same scores."""
    queries.random_(-8, 9, generator=rng)
    keys.random_(-8, 9, generator=rng)


def ties(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """Few different scores, so that most lists may be filled in several ways; keys of a run of blocks are all zero."""
    import torch

    queries.random_(-1, 2, generator=rng)
    keys.random_(-1, 2, generator=rng)
    keys *= torch.rand((keys.shape[0], 1), generator=rng, device=keys.device) < 0.01
    keys[keys.shape[0] // 4 : keys.shape[0] // 2] = 0


def spikes(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """One token decides for its block, often the first or the last one, and the others say the opposite.

    Neighbouring heads and tokens ask for different quarters of the key, in which a block has different strengths. Shows
    means, lost tokens, shifted blocks, and lists of another head or token.
    """
    import torch

    device = keys.device
    direction = torch.randint(0, 2, (HEAD_DIM,), generator=rng, device=device) * 2.0 - 1.0
    token, head = (torch.arange(n, device=device) for n in queries.shape[:2])
    quarter = torch.arange(HEAD_DIM, device=device) // (HEAD_DIM // 4)
    queries.random_(1, 4, generator=rng).mul_(direction)
    queries *= (token[:, None, None] + head[:, None]) % 4 == quarter
    first = torch.arange(0, keys.shape[0], BLOCK, device=device)
    strength = torch.randint(8, 200, (len(first), 4), generator=rng, device=device)[:, quarter]
    keys[:] = (-direction * (strength // 8)).repeat_interleave(BLOCK, 0)[: keys.shape[0]]
    kind = torch.randint(0, 3, first.shape, generator=rng, device=device)
    within = torch.randint(0, BLOCK, first.shape, generator=rng, device=device)
    within = torch.where(kind == 0, 0, torch.where(kind == 1, BLOCK - 1, within))
    keys[(first + within).clamp(max=keys.shape[0] - 1)] = strength * direction


def outliers(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """A sixteenth of the keys 30 times and half of the queries 100 times as large: scaled scores of ±1e4 and more."""
    import torch

    normal(queries, keys, rng)
    queries *= 1 + 99 * (torch.rand(queries.shape[:2], generator=rng, device=keys.device) < 0.5)[..., None]
    keys *= 1 + 29 * (torch.rand((keys.shape[0], 1), generator=rng, device=keys.device) < 1 / 16)


def nonfinite(queries: torch.Tensor, keys: torch.Tensor, rng: torch.Generator) -> None:
    """NaN in some keys and queries, infinities in others, and blocks in which nothing is a number."""
    import torch

    normal(queries, keys, rng)
    keys[torch.rand(keys.shape[0], generator=rng, device=keys.device) < 0.003, 5] = float("nan")
    keys[torch.rand(keys.shape[0], generator=rng, device=keys.device) < 0.002, 77] = float("inf")
    queries[torch.rand(queries.shape[:2], generator=rng, device=keys.device) < 0.05] = float("nan")
    odd = torch.rand(queries.shape[:2], generator=rng, device=keys.device) < 0.05
    queries[..., 3] = torch.where(odd, float("-inf"), queries[..., 3])
    keys[keys.shape[0] // 3 : keys.shape[0] // 3 + 400] = float("nan")


FAMILIES = {f.__name__: f for f in (normal, integers, ties, spikes, outliers, nonfinite)}
