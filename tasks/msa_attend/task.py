"""Hooks of the MSA attention task. Mathematics and the generator of lists are kopt.msa's, shared with its siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kopt.msa import BLOCK, arithmetic, selection
from kopt.msa import reference as msa
from kopt.msa.rounding import allowed

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Dims = dict[str, int]

# A row of out depends on one query; but which keys it needs only its list and the offsets say: hence `slices`.
SEPARABLE = ("T",)
# Any queries go with any keys and values of the same sequences, whose lengths follow from the sizes alone.
GROUPS = (("q", "ids", "cu_q", "cu_k"), ("k", "v"))

INTEGERS = ("ids", "cu_q", "cu_k")
CODE = 128.0
"""What `pick` multiplies codes by: the picked key leads by hundreds, and every other weight vanishes."""
LEAD = 104.0
"""Difference of logits from which fp32 knows no weight but 0."""


def make_inputs(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """q [T, HQ, 128], k and v [S, HKV, 128] bf16, ids [HKV, T, 16], cu_q and cu_k [OFFSETS] int32."""
    integers = make_integers(dims, family, seed, device)
    rng = selection.generator(seed, "tensors", family, device=device)
    q, k, v = selection.normal_qkv(dims["T"], dims["S"], dims["HQ"], dims["HKV"], rng)
    if family == "outlier":
        selection.outlier_qk(q, k, rng)
    elif family == "pick":
        q, k = _picking(integers, q, k, rng)
    elif family == "odd":
        _poison(integers, q, k, v, rng)
    return {"q": q, "k": k, "v": v, **integers}


def make_integers(dims: Dims, family: str, seed: int, device: str) -> Tensors:
    """ids, cu_q and cu_k alone, as make_inputs has them."""
    rng = selection.generator(seed, "integers", family, device=device)
    if family in ("odd", "pick"):
        cu_q, cu_k = _cuts(dims, rng)
    else:
        cu_q, cu_k = (selection.offsets(lens, device) for lens in _lengths(dims))
    regime = family if family in selection.REGIMES else "random"
    ids = selection.select(regime, cu_q, cu_k, dims["HKV"], rng)
    return {"ids": _strange(ids, cu_q, cu_k, rng) if family == "odd" else ids, "cu_q": cu_q, "cu_k": cu_k}


def reference(inputs: Tensors, dims: Dims) -> Tensors:
    """out [T, HQ, 128] float64: exact softmax attention over the visible tokens of the listed blocks."""
    return {"out": msa.attend_rows(**inputs, errors=False).out}


def bound(inputs: Tensors, expected: Tensors, dims: Dims) -> Tensors:
    """Largest error allowed to each element of out, [T, HQ, 128] float64; see kopt.msa.rounding."""
    return {"out": allowed(msa.attend_rows(**inputs))}


def slices(inputs: Tensors, dims: Dims, dim: str, index: torch.Tensor) -> tuple[Tensors, Tensors]:
    """Expected values of the queries `index` and the bounds on their errors, by output."""
    rows = msa.attend_rows(**inputs, rows=index)
    return {"out": rows.out}, {"out": allowed(rows)}


def cost(dims: Dims, family: str) -> dict[str, float]:
    """Visible selected pairs exactly; the families that are no regime list as `random` does, or less."""
    regime = family if family in selection.REGIMES else "random"
    lens_q, lens_k = _lengths(dims)
    pairs = sum(arithmetic.regime_pairs(regime, q, k) for q, k in zip(lens_q, lens_k, strict=True))
    read, written = arithmetic.attend_bytes(regime, lens_q, lens_k, dims["HQ"], dims["HKV"])
    return {"flops": arithmetic.attend_flops(pairs, dims["HQ"]), "read": read, "written": written}


def _lengths(dims: Dims) -> tuple[list[int], list[int]]:
    """Queries and keys of each sequence where they are not drawn: uneven, each with what came before its queries."""
    count = dims["OFFSETS"] - 1
    lens_q = selection.split(dims["T"], count)
    before = selection.split(dims["S"] - dims["T"], count)
    return lens_q, [q + b for q, b in zip(lens_q, before, strict=True)]


def _cuts(dims: Dims, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets anywhere: empty sequences, queries without keys, keys without queries, fewer keys than queries."""
    import torch

    found = []
    for name in ("T", "S"):
        inner = torch.randint(0, dims[name] + 1, (dims["OFFSETS"] - 2,), generator=rng, device=rng.device).sort().values
        ends = torch.tensor([0, dims[name]], device=rng.device)
        found.append(torch.cat([ends[:1], inner, ends[1:]]).int())
    return found[0], found[1]


def _strange(ids: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Lists with numbers that name nothing among the others: -1, blocks to come, beyond the sequence, beyond anything.

    A fifth of the queries, in turn of their row, list nothing at all.
    """
    import torch

    where = msa.places(cu_q, cu_k, ids.shape[1])
    own = (where.position // BLOCK).clamp(min=-1)
    choices = torch.stack(
        [torch.full_like(own, -1), own + 1, where.length // BLOCK + 1, *(torch.full_like(own, n) for n in FAR)], dim=1
    )
    drawn = torch.randint(0, choices.shape[1], ids.shape, generator=rng, device=rng.device)
    nothing = choices[torch.arange(ids.shape[1], device=rng.device)[None, :, None], drawn].int()
    keep = (torch.rand(ids.shape, generator=rng, device=rng.device) < 0.5) & (ids >= 0)
    keep &= (torch.arange(ids.shape[1], device=rng.device) % 5 != 4)[None, :, None]
    key = torch.rand(ids.shape, generator=rng, device=rng.device).argsort(-1)
    return torch.where(keep, ids, nothing).gather(-1, key).contiguous()


FAR = (-(2**31), -7, 2**24, 2**31 - 1)
"""Numbers that 32-bit arithmetic on addresses turns into anything."""


def _poison(integers: Tensors, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rng: torch.Generator) -> None:
    """NaN in some keys, in single elements of some values and in some queries: shown by whoever attends to them alone.

    Not in a token that a query of the same block cannot see yet: there it may show or not.
    """
    import torch

    where = msa.places(integers["cu_q"], integers["cu_k"], q.shape[0])
    behind = torch.zeros(k.shape[0] + BLOCK + 1, dtype=torch.bool, device=rng.device)
    token = where.position[:, None] // BLOCK * BLOCK + torch.arange(BLOCK, device=rng.device)
    unseen = (where.position[:, None] >= 0) & (token > where.position[:, None]) & (token < where.length[:, None])
    behind[torch.where(unseen, token + where.start[:, None], k.shape[0])] = True
    allowed = (~behind[: k.shape[0]]).nonzero().flatten()
    if not len(allowed):
        return
    for head in range(k.shape[1]):
        count = max(1, len(allowed) // 200)
        rows = allowed[torch.randint(0, len(allowed), (2 * count,), generator=rng, device=rng.device)]
        k[rows[:count], head] = float("nan")
        v[rows[count:], head, 5 * head + 3] = float("nan")
    q[3::16, 1] = float("nan")


def _picking(
    integers: Tensors, q: torch.Tensor, k: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, k) with which each query and head attends to one listed token alone: out is a row of v, bit for bit.

    Keys are codes of 128 signs. Up to 64 queries also look for a token that they must not see: the next one, the last
    of the sequence before, or one of a block that is not listed; whoever reads it gives it half of the weight or more.
    """
    import torch

    device = rng.device
    tokens, heads, group = q.shape[0], k.shape[1], q.shape[1] // k.shape[1]
    where = msa.places(integers["cu_q"], integers["cu_k"], tokens)
    codes = (torch.randint(0, 2, k.shape, generator=rng, device=device) * 2 - 1).float()
    asked = torch.zeros((tokens, heads, group, q.shape[2]), device=device)
    for head in range(heads):
        ids = integers["ids"][head].long()
        valid = (ids >= 0) & (ids * BLOCK <= where.position[:, None])
        shape = (tokens, group)
        slot = (torch.rand(shape, generator=rng, device=device) * valid.sum(1)[:, None]).long()
        block = ids.gather(1, slot)
        seen = (where.position[:, None] - block * BLOCK + 1).clamp(1, BLOCK)
        inside = (torch.rand(shape, generator=rng, device=device) * seen).long()
        last = torch.rand(shape, generator=rng, device=device) < 0.25
        token = block * BLOCK + torch.where(last, seen - 1, inside)
        any_ = valid.any(1)
        row = torch.where(any_[:, None], token + where.start[:, None], 0)
        asked[:, head] = torch.where(any_[:, None, None], codes[row, head], 0.0)
        rows = torch.randperm(tokens, generator=rng, device=device)[:64]
        rows = rows[any_[rows]]
        asked[rows, head] += _decoys(rows, ids, where, codes[:, head], asked[rows, head], rng)
    return (CODE * asked).reshape(q.shape).bfloat16(), codes.bfloat16()


def _decoys(
    rows: torch.Tensor, ids: torch.Tensor, where: msa.Places, codes: torch.Tensor, asked: torch.Tensor,
    rng: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """[rows, group, 128]: codes of tokens that must not be read, where the picked one leads all others all the same."""
    import torch

    device, group = rng.device, asked.shape[1]
    position, start, listed = where.position[rows], where.start[rows], ids[rows]
    other = (torch.rand(len(rows), generator=rng, device=device) * (position // BLOCK + 1)).long()
    unlisted = torch.where((listed == other[:, None]).any(1), -1, other * BLOCK + start)
    choices = torch.stack([start + position + 1, start - 1, unlisted], dim=1)
    choices = torch.where((choices >= 0) & (choices < len(codes)), choices, -1)
    drawn = torch.randint(0, 3, (len(rows), group), generator=rng, device=device)
    row = choices.gather(1, drawn)
    decoy = torch.where((row >= 0)[..., None], codes[row.clamp(min=0)], 0.0)
    token = (listed[:, :, None] * BLOCK + torch.arange(BLOCK, device=device)).flatten(1)
    seen = (token >= 0) & (token <= position[:, None])
    keys = codes[torch.where(seen, token + start[:, None], 0)]
    scores = ((asked + decoy) @ keys.transpose(1, 2)).masked_fill(~seen[:, None], -float("inf"))
    picked = (asked @ keys.transpose(1, 2)).masked_fill(~seen[:, None], -float("inf")).argmax(-1, keepdim=True)
    others = scores.scatter(2, picked, -float("inf")).amax(-1)
    leads = (scores.gather(2, picked)[..., 0] - others) * CODE * codes.shape[1] ** -0.5 > LEAD + 20.0
    return torch.where(leads[..., None], decoy, 0.0)
