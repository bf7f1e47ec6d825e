"""Decoding over a paged cache: one query a request, its list of blocks by the index, attention over them in float64.

Layouts: q [B, HQ, 128]; kc and vc [PAGES, HKV, 128, 128] and ikc [PAGES, 128, 128], a page a block; iq [B, HKV, 128];
table [B, WIDTH] page numbers; lens [B]. Request b has min(lens[b], 128 WIDTH) tokens, none where that is negative, and
its query is the last of them. Block j lies in page table[b, j]; where no page has that number, the block has no tokens.
What lies beyond a request's last token, in its last page, in other pages and in its row of the table, is not looked at.

A list holds the own block (the last one) and the up to 15 others of the highest scores, of equal scores those of lower
numbers. A token whose index score is NaN counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kopt.msa import BLOCK, HEAD_DIM, TOP_K, arithmetic
from kopt.msa.index import LOWEST
from kopt.msa.reference import Rows, attend_rows

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class List:
    """Of one request; all KV heads list equally many blocks, for any index queries."""

    blocks: torch.Tensor
    """[rows of index queries, count] int64, rising: the own block, if it is there, is the last."""
    pages: torch.Tensor
    """The same shape, int64."""
    tokens: int
    """Of all its blocks together; only the last of them may be partial."""


def listed(iq: torch.Tensor, ikc: torch.Tensor, row: torch.Tensor, length: int) -> List:
    """The list of one request: iq [rows, 128] of its KV heads, or of theirs for several queries; its row of the table,
    its own length."""
    import torch

    length = max(0, min(length, BLOCK * len(row)))
    count = -(-length // BLOCK)
    page = row[:count].long()
    there = (page >= 0) & (page < ikc.shape[0])
    safe = torch.where(there, page, 0)
    chosen = torch.zeros((iq.shape[0], 0), dtype=torch.long, device=iq.device)
    own = count - 1
    if own > 0:
        # fp32 does: scores are integers in all families of inputs, and exact.
        token = torch.einsum("hd,btd->hbt", iq.float(), pages_of(ikc, safe[:own]).float())
        score = torch.where(token > LOWEST, token, LOWEST).amax(-1).masked_fill(~there[:own], float("-inf"))
        best = torch.sort(score, dim=-1, descending=True, stable=True).indices[:, : TOP_K - 1]
        chosen = best[:, : min(TOP_K - 1, int(there[:own].sum()))].sort(-1).values
    partial = BLOCK
    if count and there[own]:
        last = torch.full((iq.shape[0], 1), own, dtype=torch.long, device=iq.device)
        chosen, partial = torch.cat([chosen, last], dim=1), length - own * BLOCK
    blocks = chosen.shape[1]
    tokens = (blocks - 1) * BLOCK + partial if blocks else 0
    return List(chosen, safe[chosen] if count else chosen, tokens)


def pages_of(cache: torch.Tensor, *index: torch.Tensor) -> torch.Tensor:
    """cache[index]; eight-bit types by their bytes, since torch cannot index all of them everywhere."""
    import torch

    raw = cache.view(torch.uint8) if cache.element_size() == 1 else cache
    return raw[index].view(cache.dtype)


def lists(inputs: Tensors, rows: list[int]) -> list[List]:
    lens = inputs["lens"].tolist()
    return [listed(inputs["iq"][b], inputs["ikc"], inputs["table"][b], lens[b]) for b in rows]


def decode_rows(inputs: Tensors, rows: torch.Tensor | None = None, *, errors: bool = True) -> Rows:
    """Attention of the given requests (all, where None). `scales` [2] fp32 among the inputs: those of kc and of vc."""
    return decode_calls([inputs], rows, errors=errors)


def decode_calls(several: Sequence[Tensors], rows: torch.Tensor | None = None, *, errors: bool = True) -> Rows:
    """As `decode_rows`, of calls with inputs of their own, one after the other: what asks the device is asked once."""
    import torch

    heads, device = several[0]["kc"].shape[1], several[0]["q"].device
    chosen = list(range(several[0]["q"].shape[0])) if rows is None else [int(b) for b in rows]
    # What calls ask of the same cache is asked at once.
    of: dict[tuple[int, ...], list[int]] = {}
    for call, inputs in enumerate(several):
        same = tuple(inputs[name].data_ptr() for name in ("kc", "vc", "ikc", "table", "lens"))
        of.setdefault(same, []).append(call)
    # A sequence a call and request, of what its list holds: whole blocks first, so that its last token is the query's.
    k, v = ([[torch.empty(0)] * len(chosen) for _ in several] for _ in range(2))
    for calls in of.values():
        cache = several[calls[0]]
        lens = cache["lens"].tolist()
        scales = cache["scales"].double().tolist() if "scales" in cache else [1.0, 1.0]
        for n, b in enumerate(chosen):
            asked = torch.cat([several[call]["iq"][b] for call in calls])
            found = listed(asked, cache["ikc"], cache["table"][b], lens[b])
            for into, name, scale in ((k, "kc", scales[0]), (v, "vc", scales[1])):
                for call, tokens in zip(calls, _gathered(cache[name], found, len(calls), scale), strict=True):
                    into[call][n] = tokens
    keys, values = ([tokens for call in one for tokens in call] for one in (k, v))
    lengths = torch.tensor([0, *map(len, keys)], device=device)
    ids = torch.arange(TOP_K, device=device, dtype=torch.int32).expand(heads, len(keys), -1)
    at = torch.tensor(chosen, device=device, dtype=torch.long)
    queries = torch.cat([inputs["q"][at] for inputs in several])
    cu_q = torch.arange(len(keys) + 1, device=device)
    return attend_rows(queries, torch.cat(keys), torch.cat(values), ids, cu_q, lengths.cumsum(0), errors=errors)


def _gathered(cache: torch.Tensor, found: List, calls: int, scale: float) -> torch.Tensor:
    """[calls, tokens, HKV, 128] of a list made for so many calls."""
    import torch

    heads = torch.arange(cache.shape[1], device=cache.device)
    pages = found.pages.unflatten(0, (calls, -1)).transpose(1, 2)
    blocks = pages_of(cache, pages, heads)  # [calls, count, HKV, 128, 128]
    tokens = blocks.transpose(2, 3).flatten(1, 2)[:, : found.tokens]
    return tokens.double() * scale if cache.element_size() == 1 else tokens


def lengths(dims: dict[str, int], family: str) -> list[int]:
    """Of every request; what `paged` and `contiguous` time: full rows of the table, the last page partly filled."""
    full = dims["WIDTH"] * BLOCK
    if family in ("ragged", "odd"):
        cases = [full, 0, 1, 128, 129, full // 2 + 5, 127, full - 1]
        if family == "odd":
            cases = [full + 1000, -5, full // 2, full, 131, full - 77]
    else:
        cases = [full - b * 37 % BLOCK for b in range(dims["B"])]
    return [cases[b % len(cases)] for b in range(dims["B"])]


def cost(dims: dict[str, int], family: str, itemsize: int) -> dict[str, float]:
    """Index products of all tokens, attention over listed ones; index keys and listed blocks once."""
    tokens = [max(0, min(n, dims["WIDTH"] * BLOCK)) for n in lengths(dims, family)]
    attended = sum(arithmetic.selected_pairs(1, n) for n in tokens if n)
    heads_q, heads_kv = dims["HQ"], dims["HKV"]
    queries = 2.0 * HEAD_DIM * dims["B"] * (heads_q + heads_kv)
    cached = itemsize * HEAD_DIM * (sum(tokens) + 2.0 * heads_kv * attended)
    table = 4.0 * (sum(-(-n // BLOCK) for n in tokens) + dims["B"])
    return {
        "flops": arithmetic.index_flops(sum(tokens), heads_kv) + arithmetic.attend_flops(attended, heads_q),
        "read": queries + cached + table + (8.0 if itemsize == 1 else 0.0),
        "written": 2.0 * HEAD_DIM * dims["B"] * heads_q,
    }
