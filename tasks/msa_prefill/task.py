"""Hooks of the MSA prefill task. Its index tensors are codes, so that which blocks are right is never in doubt."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kopt.msa import BLOCK, HEAD_DIM, TOP_K, arithmetic, selection
from kopt.msa import reference as msa
from kopt.msa.index import choose
from kopt.msa.rounding import allowed

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Dims = dict[str, int]

# A row of out depends on one query, but which keys it needs only the whole index says: hence `slices`.
SEPARABLE = ("T",)
# Any queries go with any keys and values of the same sequences, whose lengths follow from the sizes alone.
GROUPS = (("q", "iq", "cu_q", "cu_k"), ("k", "v", "ik"))

RANKINGS = 32
"""Orders of all blocks, two dimensions each of the index keys; an index query asks for one of them."""
STRETCH = 512
"""Positions within which queries of `m3_like` ask for one of the same two orders."""
TIED = 3
"""Neighbouring blocks that are one another's copies in `ties`."""


def make_inputs(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """q [T, HQ, 128], k and v [S, HKV, 128], iq [T, HKV, 128], ik [S, 128] bf16, cu_q and cu_k [OFFSETS] int32."""
    offsets = make_integers(dims, family, seed, device)
    rng = selection.generator(seed, "msa_prefill", family, device=device)
    q, k, v = selection.normal_qkv(dims["T"], dims["S"], dims["HQ"], dims["HKV"], rng)
    if family == "outlier":
        selection.outlier_qk(q, k, rng)
    iq = _queries(offsets, dims, family, rng)
    ik = _keys(offsets, dims, rng)
    if family == "ties":
        for tensor in (k, v, ik):
            _copies(offsets["cu_k"], tensor)
    inputs = {"q": q, "k": k, "v": v, "iq": iq.bfloat16(), "ik": ik.bfloat16(), **offsets}
    if family == "odd":
        _poison(inputs)
    return inputs


def make_integers(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """cu_q and cu_k alone, as make_inputs has them."""
    import torch

    if family != "odd":
        cu_q, cu_k = (selection.offsets(lens, device) for lens in _lengths(dims))
        return {"cu_q": cu_q, "cu_k": cu_k}
    # Anywhere: empty sequences, queries without keys, keys without queries, fewer keys than queries.
    rng = selection.generator(seed, "msa_prefill offsets", device=device)
    found = {}
    for name, size in (("cu_q", dims["T"]), ("cu_k", dims["S"])):
        inner = torch.randint(0, size + 1, (dims["OFFSETS"] - 2,), generator=rng, device=device).sort().values
        ends = torch.tensor([0, size], device=device)
        found[name] = torch.cat([ends[:1], inner, ends[1:]]).int()
    return found


def stand_ins(dims: Dims, family: str, seed: int) -> Tensors:
    """ids [HKV, T, 16] int32 of the same regime, in place of those that the index would find."""
    offsets = make_integers(dims, family, seed, "cpu")
    regime = "m3_like" if family == "m3_like" else "random"
    rng = selection.generator(seed, "msa_prefill stand-in", family)
    return {"ids": selection.select(regime, offsets["cu_q"], offsets["cu_k"], dims["HKV"], rng)}


def reference(inputs: Tensors, dims: Dims) -> Tensors:
    """out [T, HQ, 128] float64: exact attention over the blocks that the index chooses, scores in float64."""
    return {"out": _attended(inputs, errors=False).out}


def bound(inputs: Tensors, expected: Tensors, dims: Dims) -> Tensors:
    """Largest error allowed to each element of out, [T, HQ, 128] float64."""
    return {"out": allowed(_attended(inputs, errors=True), _alike(inputs))}


def slices(inputs: Tensors, dims: Dims, dim: str, index: torch.Tensor) -> tuple[Tensors, Tensors]:
    """Expected values of the queries `index` and the bounds on their errors, by output."""
    cu_q, cu_k = inputs["cu_q"], inputs["cu_k"]
    scores = msa.block_scores(inputs["iq"], inputs["ik"], cu_q, cu_k, index)
    position = msa.places(cu_q, cu_k, dims["T"]).position[index]
    ids = inputs["cu_q"].new_full((dims["HKV"], dims["T"], TOP_K), -1)
    ids[:, index] = msa.top_blocks(scores, position)
    rows = msa.attend_rows(inputs["q"], inputs["k"], inputs["v"], ids, cu_q, cu_k, index)
    return {"out": rows.out}, {"out": allowed(rows, _alike(inputs))}


def cost(dims: Dims, family: str) -> dict[str, float]:
    """Index products of all visible pairs and attention over the selected ones; every tensor once."""
    lens = list(zip(*_lengths(dims), strict=True))
    index = sum(arithmetic.causal_pairs(q, k) for q, k in lens)
    chosen = sum(arithmetic.selected_pairs(q, k) for q, k in lens)
    read, written = arithmetic.attend_bytes("random", *_lengths(dims), dims["HQ"], dims["HKV"])
    lists = 4.0 * dims["HKV"] * dims["T"] * TOP_K  # between the two, and not compulsory
    return {
        "flops": arithmetic.index_flops(index, dims["HKV"]) + arithmetic.attend_flops(chosen, dims["HQ"]),
        "read": read - lists + 2.0 * HEAD_DIM * (dims["T"] * dims["HKV"] + dims["S"]),
        "written": written,
    }


def _attended(inputs: Tensors, *, errors: bool) -> msa.Rows:
    ids = choose(inputs["iq"], inputs["ik"], inputs["cu_q"], inputs["cu_k"])
    return msa.attend_rows(inputs["q"], inputs["k"], inputs["v"], ids, inputs["cu_q"], inputs["cu_k"], errors=errors)


def _lengths(dims: Dims) -> tuple[list[int], list[int]]:
    """Queries and keys of each sequence where they are not drawn."""
    count = dims["OFFSETS"] - 1
    lens_q = selection.split(dims["T"], count)
    before = selection.split(dims["S"] - dims["T"], count)
    return lens_q, [q + b for q, b in zip(lens_q, before, strict=True)]


def _blocks(cu_k: torch.Tensor) -> torch.Tensor:
    """For each key the number of its block among all blocks of all sequences, [S] int64."""
    import torch

    cu = cu_k.long()
    key = torch.arange(int(cu[-1]), device=cu.device)
    sequence = torch.searchsorted(cu, key, right=True) - 1
    before = torch.cat([cu.new_zeros(1), (-(-cu.diff() // BLOCK)).cumsum(0)])
    return before[sequence] + (key - cu[sequence]) // BLOCK


def _keys(offsets: Tensors, dims: Dims, rng: torch.Generator) -> torch.Tensor:
    """ik [S, 128]: one token of each block holds the block's place in each of the orders, as two numbers of 8 bits.

    The other 64 dimensions are -1, 0 or 1. All are integers that bf16 holds, and so are the scores in fp32.
    """
    import torch

    device = rng.device
    block = _blocks(offsets["cu_k"])
    count = int(block[-1]) + 1
    place = torch.stack([1 + torch.randperm(count, generator=rng, device=device) for _ in range(RANKINGS)], 1)
    first = torch.searchsorted(block, torch.arange(count, device=device))
    size = torch.bincount(block, minlength=count)
    at = first + (torch.rand(count, generator=rng, device=device) * size).long()
    keys = torch.randint(-1, 2, (dims["S"], HEAD_DIM), generator=rng, device=device).float()
    keys[:, : 2 * RANKINGS] = 0
    keys[at, : 2 * RANKINGS] = torch.stack([place % 256, place // 256], 2).flatten(1).float()
    return keys


def _queries(offsets: Tensors, dims: Dims, family: str, rng: torch.Generator) -> torch.Tensor:
    """iq [T, HKV, 128]: one order is asked for. Places lie 256 apart; all else adds 64 at most."""
    import torch

    device = rng.device
    shape = (dims["T"], dims["HKV"])
    asked = torch.randint(0, RANKINGS, shape, generator=rng, device=device)
    if family == "m3_like":
        position = msa.places(offsets["cu_q"], offsets["cu_k"], dims["T"]).position.clamp(min=0)
        head = torch.arange(dims["HKV"], device=device)
        asked = (position[:, None] // STRETCH * 5 + head * 7 + asked % 2) % RANKINGS
    queries = torch.randint(-1, 2, (*shape, HEAD_DIM), generator=rng, device=device).float()
    queries[..., : 2 * RANKINGS] = 0
    queries.scatter_(2, 2 * asked[..., None], 256.0)
    queries.scatter_(2, 2 * asked[..., None] + 1, 65536.0)
    return queries


def _copies(cu_k: torch.Tensor, tensor: torch.Tensor) -> None:
    """In place: of each TIED whole blocks of a sequence the others are copies of the first."""
    for start, end in pairwise(cu_k.tolist()):
        whole = (end - start) // (TIED * BLOCK) * TIED * BLOCK
        groups = tensor[start : start + whole].unflatten(0, (-1, TIED, BLOCK))
        groups[:, 1:] = groups[:, :1].clone()


def _alike(inputs: Tensors) -> int:
    """How many blocks are copies of each other."""
    import torch

    for start, end in pairwise(inputs["cu_k"].tolist()):
        if end - start >= TIED * BLOCK:
            first, second = inputs["k"][start : start + 2 * BLOCK].split(BLOCK)
            return TIED if torch.equal(first, second) else 1
    return 1


def _poison(inputs: Tensors) -> None:
    """NaN in keys and values of blocks that no query lists."""
    import torch

    ids = choose(inputs["iq"], inputs["ik"], inputs["cu_q"], inputs["cu_k"])
    where = msa.places(inputs["cu_q"], inputs["cu_k"], ids.shape[1])
    listed = torch.zeros(inputs["k"].shape[:2], dtype=torch.bool, device=ids.device)
    token = (ids.long()[..., None] * BLOCK + torch.arange(BLOCK, device=ids.device)).flatten(2)
    inside = (token >= 0) & (token < where.length[:, None])
    row = torch.where(inside, token + where.start[:, None], 0)
    for head in range(ids.shape[0]):
        listed[row[head][inside[head]], head] = True
    for name in ("k", "v"):
        inputs[name][~listed] = float("nan")
