"""MSA as its definition reads, in float64 unless said: slow and plain, to be compared with.

Layouts: q [T, HQ, 128], k and v [S, HKV, 128], index queries [T, H, D], index keys [S, D], ids [HKV, T, 16] int32
(block numbers within the query's own sequence; what names no visible block, such as -1, counts for nothing), `cu_q` and
`cu_k` [sequences + 1] integers. Query head h belongs to KV head h // (HQ / HKV). A query that sees nothing gets zeros,
and -inf as its log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kopt.msa import BLOCK, TOP_K

if TYPE_CHECKING:
    import torch

FAINT = 2.0**-25
"""Half the least number of fp16: a weight may be rounded by so much of the largest one, or away."""

_GATHERED = 1 << 26
"""Elements of gathered keys that are held at a time."""


@dataclass(frozen=True)
class Places:
    """Where each of the T queries stands; int64 [T] each."""

    position: torch.Tensor
    """Within its sequence; negative where the sequence has fewer keys than queries."""
    start: torch.Tensor
    """Row of the sequence's first key."""
    length: torch.Tensor
    """Keys of the sequence."""


def places(cu_q: torch.Tensor, cu_k: torch.Tensor, tokens: int) -> Places:
    import torch

    cu_q, cu_k = cu_q.long(), cu_k.long()
    row = torch.arange(tokens, device=cu_q.device)
    # Empty sequences share their offset with the next one, which is the one that owns the row.
    sequence = torch.searchsorted(cu_q, row, right=True) - 1
    length = cu_k[sequence + 1] - cu_k[sequence]
    asked = cu_q[sequence + 1] - cu_q[sequence]
    return Places(length - asked + row - cu_q[sequence], cu_k[sequence], length)


def sequences(cu_q: torch.Tensor, cu_k: torch.Tensor) -> list[tuple[slice, slice]]:
    """The rows of each sequence among queries and among keys."""
    q, k = cu_q.tolist(), cu_k.tolist()
    return [(slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1)]


def visible(len_q: int, len_k: int, device: object = "cpu") -> torch.Tensor:
    """[len_q, len_k] bool: the causal mask of queries at the end of their sequence."""
    import torch

    position = torch.arange(len_q, device=device) + len_k - len_q
    return torch.arange(len_k, device=device)[None, :] <= position[:, None]


# ------------------------------------------------------------------------------------------------------------ selection


def index_scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores [H, len_q, len_k] of one sequence: scaled products, -inf where a key is not visible."""
    scores = q.double().transpose(0, 1) @ k.double().T * q.shape[-1] ** -0.5
    return scores.masked_fill(~visible(q.shape[0], k.shape[0], q.device), float("-inf"))


def block_max(scores: torch.Tensor) -> torch.Tensor:
    """[..., keys] to [..., blocks]: the largest score of each block; -inf where none of it is visible."""
    import torch

    missing = -scores.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(scores, (0, missing), value=float("-inf"))
    return padded.unflatten(-1, (-1, BLOCK)).amax(-1)


def top_blocks(block_scores: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """ids [H, T, 16] int32 from block scores [H, T, blocks] (-inf: not visible) and positions [T].

    The own block always, then the best others; of equal scores the lower number. Best first, -1 to the right.
    """
    import torch

    own = (position.long() // BLOCK).clamp(min=0)
    # Below the own block's place, which no other's infinity may take.
    scores = block_scores.clamp(max=torch.finfo(block_scores.dtype).max)
    seen = position >= 0
    scores[:, seen, own[seen]] = float("inf")
    order = torch.sort(scores, dim=-1, descending=True, stable=True)
    count = min(TOP_K, scores.shape[-1])
    ids = torch.full((*scores.shape[:-1], TOP_K), -1, dtype=torch.int32, device=scores.device)
    best, at = order.values[..., :count], order.indices[..., :count]
    ids[..., :count] = torch.where(best == float("-inf"), -1, at).int()
    return ids


def block_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    rows: torch.Tensor,
    *,
    float32: bool = False,
) -> torch.Tensor:
    """Block scores [H, rows, most blocks] of the given queries alone, for any size; -inf beyond what a query sees."""
    import torch

    dtype = torch.float32 if float32 else torch.float64
    where = places(cu_q, cu_k, q.shape[0])
    blocks = -(-int((cu_k[1:] - cu_k[:-1]).max()) // BLOCK) if len(cu_k) > 1 else 0
    found = torch.full((q.shape[1], len(rows), blocks), float("-inf"), dtype=dtype, device=q.device)
    for n, row in enumerate(rows.tolist()):
        seen = max(0, int(where.position[row]) + 1)
        if not seen:
            continue
        start = int(where.start[row])
        scores = q[row].to(dtype) @ k[start : start + seen].to(dtype).T * q.shape[-1] ** -0.5
        best = block_max(scores)
        found[:, n, : best.shape[-1]] = best
    return found


def select(q: torch.Tensor, k: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor) -> torch.Tensor:
    """ids [H, T, 16] int32 of the index branch, for small sizes."""
    import torch

    where = places(cu_q, cu_k, q.shape[0])
    ids = torch.full((q.shape[1], q.shape[0], TOP_K), -1, dtype=torch.int32, device=q.device)
    for asked, keys in sequences(cu_q, cu_k):
        if asked.stop > asked.start and keys.stop > keys.start:
            ids[:, asked] = top_blocks(block_max(index_scores(q[asked], k[keys])), where.position[asked])
    return ids


def every_block(cu_q: torch.Tensor, cu_k: torch.Tensor, heads_kv: int) -> torch.Tensor:
    """ids [HKV, T, most blocks] that name all blocks a query sees: with them MSA is dense attention."""
    import torch

    tokens = int(cu_q[-1])
    own = places(cu_q, cu_k, tokens).position // BLOCK
    blocks = torch.arange(int(own.max()) + 1 if tokens else 0, device=cu_q.device)
    ids = torch.where(blocks[None, :] <= own[:, None], blocks[None, :], -1).int()
    return ids[None].expand(heads_kv, -1, -1).contiguous()


# ------------------------------------------------------------------------------------------------------------ attention


def softmax_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [T, HQ, D], lse [T, HQ]) of one sequence; mask [HKV, len_q, len_k] says which keys count.

    What does not count is not touched: a NaN there does not show.
    """
    import torch

    group = q.shape[1] // k.shape[1]
    out, lse = torch.zeros(q.shape, dtype=torch.float64, device=q.device), q.new_zeros(q.shape[:2], dtype=torch.float64)
    for head in range(q.shape[1]):
        keep = mask[head // group]
        keys, values = k[:, head // group].double(), v[:, head // group].double()
        scores = (q[:, head].double() @ keys.T * q.shape[-1] ** -0.5).masked_fill(~keep, float("-inf"))
        lse[:, head] = scores.logsumexp(-1)
        weights = (scores - lse[:, head, None]).exp().masked_fill(~keep, 0.0)
        for row in range(q.shape[0]):
            out[row, head] = weights[row, keep[row]] @ values[keep[row]]
    return out, lse


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ids: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [T, HQ, D], lse [T, HQ]) float64 of exact attention over the listed blocks, for small sizes."""
    import torch

    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:2], float("-inf"), dtype=torch.float64, device=q.device)
    for asked, keys in sequences(cu_q, cu_k):
        len_q, len_k = asked.stop - asked.start, keys.stop - keys.start
        block = torch.arange(len_k, device=q.device) // BLOCK
        listed = (ids[:, asked, :, None] == block).any(2)
        mask = listed & visible(len_q, len_k, q.device)
        out[asked], lse[asked] = softmax_attention(q[asked], k[keys], v[keys], mask)
    return out, lse


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) of dense causal attention: the oracle up to 2,048 tokens, and wherever all blocks are listed."""
    import torch

    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:2], float("-inf"), dtype=torch.float64, device=q.device)
    for asked, keys in sequences(cu_q, cu_k):
        mask = visible(asked.stop - asked.start, keys.stop - keys.start, q.device)
        out[asked], lse[asked] = softmax_attention(q[asked], k[keys], v[keys], mask.expand(k.shape[1], -1, -1))
    return out, lse


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial results [parts, ..., D], each normalised by itself, and their lse [parts, ...]: (out, lse) of the whole.

    A part with lse = -inf is not looked at.
    """
    import torch

    lse = lses.double().logsumexp(0)
    weights = torch.where(lses == float("-inf"), 0.0, (lses.double() - lse).exp())[..., None]
    return torch.where(weights > 0, outs.double() * weights, 0.0).sum(0), lse


@dataclass(frozen=True)
class Rows:
    """Attention of some queries, and what its rounding errors scale with (empty where that was not asked for)."""

    out: torch.Tensor
    """[rows, HQ, D]"""
    lse: torch.Tensor
    """[rows, HQ]"""
    spread: torch.Tensor
    """[rows, HQ, D]: root of the sum of squares of weight times value, over keys."""
    parts: torch.Tensor
    """[rows, HQ, D]: root of the sum of squares of what each listed block adds to out."""
    size: torch.Tensor
    """[rows, HQ, D]: sum of weight times |value|."""
    faint: torch.Tensor
    """[rows, HQ, D]: what the weights that fp16 has no room for beside the largest add to `size`."""
    products: torch.Tensor
    """[rows, HQ]: the largest scaled sum of |q| |k| over a key that counts."""


def attend_rows(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ids: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    rows: torch.Tensor | None = None,
    *,
    float32: bool = False,
    errors: bool = True,
) -> Rows:
    """Attention of the given queries (all, where None), at any size: listed blocks alone are gathered, in turns."""
    import torch

    dtype = torch.float32 if float32 else torch.float64
    rows = torch.arange(q.shape[0], device=q.device) if rows is None else rows.to(q.device)
    where = places(cu_q, cu_k, q.shape[0])
    shape = (len(rows), q.shape[1], q.shape[2])
    out = torch.zeros(shape, dtype=dtype, device=q.device)
    lse = torch.full(shape[:2], float("-inf"), dtype=dtype, device=q.device)
    spread, parts, size, faint = (
        torch.zeros(shape if errors else (0,), dtype=dtype, device=q.device) for _ in range(4)
    )
    products = torch.zeros(shape[:2] if errors else (0,), dtype=dtype, device=q.device)
    group = q.shape[1] // k.shape[1]
    step = max(1, _GATHERED // (ids.shape[2] * BLOCK * q.shape[2]))
    for head in range(k.shape[1] if len(k) else 0):
        heads = slice(head * group, (head + 1) * group)
        for begin in range(0, len(rows), step):
            part = slice(begin, begin + step)
            chosen = rows[part]
            listed = _named(ids[head, chosen].long(), where.position[chosen])
            token = (listed[:, :, None] * BLOCK + torch.arange(BLOCK, device=q.device)).flatten(1)
            keep = (token >= 0) & (token <= where.position[chosen, None])
            at = torch.where(keep, token + where.start[chosen, None], 0)
            if not at.shape[1]:
                continue
            keys = torch.where(keep[..., None], k[at, head], 0).to(dtype)
            values = torch.where(keep[..., None], v[at, head], 0).to(dtype)
            asked = q[chosen, heads].to(dtype)
            scale = q.shape[2] ** -0.5
            scores = (asked @ keys.transpose(1, 2) * scale).masked_fill(~keep[:, None], float("-inf"))
            total = scores.logsumexp(-1)
            weights = (scores - total[..., None]).exp().masked_fill(~keep[:, None], 0.0)
            lse[part, heads] = total
            out[part, heads] = weights @ values
            if not errors:
                continue
            spread[part, heads] = (weights.square() @ values.square()).sqrt()
            size[part, heads] = weights @ values.abs()
            faint[part, heads] = weights.clamp(max=FAINT * weights.amax(-1, keepdim=True)) @ values.abs()
            by_block = weights.unflatten(-1, (-1, BLOCK)).transpose(1, 2) @ values.unflatten(1, (-1, BLOCK))
            parts[part, heads] = by_block.square().sum(1).sqrt()
            products[part, heads] = (asked.abs() @ keys.abs().transpose(1, 2) * scale).amax(-1)
    return Rows(out, lse, spread, parts, size, faint, products)


def _named(listed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Lists [rows, n] with what names a visible block alone, once each, left-packed and cut to the longest; else -1."""
    import torch

    column = torch.arange(listed.shape[1], device=listed.device)
    first = (listed[:, :, None] == listed[:, None, :]).int().argmax(2) == column
    good = first & (listed >= 0) & (listed * BLOCK <= position[:, None])
    order = good.int().sort(dim=1, descending=True, stable=True).indices
    packed = torch.where(good, listed, -1).gather(1, order)
    return packed[:, : int(good.sum(1).max())] if len(listed) else packed


def count_pairs(ids: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor) -> list[int]:
    """Visible selected pairs of each KV head, counted from its lists."""
    import torch

    where = places(cu_q, cu_k, ids.shape[1])
    listed = ids.long()
    seen = (where.position[None, :, None] - listed * BLOCK + 1).clamp(0, BLOCK)
    seen = torch.where((listed >= 0), seen, 0)
    same = listed[..., :, None] == listed[..., None, :]
    first = same.int().argmax(-1) == torch.arange(ids.shape[2], device=ids.device)
    return [int(n) for n in torch.where(first, seen, 0).sum((1, 2)).tolist()]
