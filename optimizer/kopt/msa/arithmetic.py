"""Exact work and traffic of MSA: visible selected pairs, FLOPs, compulsory bytes, and what each loop order moves.

Elements have two bytes unless a parameter says otherwise. Counts of the loop orders follow the paper's model (section
3.2 there): they leave out index lists and log-sum-exps, which are small.
"""

from __future__ import annotations

from collections.abc import Sequence

from kopt.msa import BLOCK, HEAD_DIM, TOP_K

SHORT_PERIOD = 15
"""Positions after which the list lengths of the regime `short` repeat."""


def causal_pairs(len_q: int, len_k: int) -> int:
    """Pairs of a query and a key it may see, for a sequence whose last `len_q` positions ask."""
    first = max(0, len_k - len_q)
    return len_k * (len_k + 1) // 2 - first * (first + 1) // 2


def selected_pairs(len_q: int, len_k: int, top_k: int = TOP_K) -> int:
    """Pairs of a query and a visible key of its `top_k` blocks (or as many as there are), its own among them."""

    def upto(n: int) -> int:
        """The same for positions 0 to n - 1."""
        full = min(n, BLOCK * top_k)
        blocks, rest = divmod(n - full, BLOCK)
        own = blocks * BLOCK * (BLOCK + 1) // 2 + rest * (rest + 1) // 2
        return full * (full + 1) // 2 + (n - full) * (top_k - 1) * BLOCK + own

    return upto(len_k) - upto(max(0, len_k - len_q))


def short_count(position: int) -> int:
    """Blocks that the regime `short` lists at a position, where so many are visible: 1 to 15."""
    return 1 + position * 7 % SHORT_PERIOD


def regime_pairs(regime: str, len_q: int, len_k: int) -> int:
    """Visible selected pairs of one sequence in a regime of selection.py, whatever the seed."""
    if regime != "short":
        return selected_pairs(len_q, len_k)
    return sum(
        (min(short_count(p), p // BLOCK + 1) - 1) * BLOCK + p % BLOCK + 1 for p in range(max(0, len_k - len_q), len_k)
    )


def attend_flops(pairs: int, heads_q: int) -> float:
    """Two products of 128 multiply-adds for each pair and query head."""
    return 4.0 * heads_q * HEAD_DIM * pairs


def index_flops(pairs: int, index_heads: int) -> float:
    """One product for each visible pair and index head."""
    return 2.0 * index_heads * HEAD_DIM * pairs


def visible_blocks(len_q: int, len_k: int) -> int:
    """Blocks of a sequence that some query may see."""
    return -(-len_k // BLOCK) if len_q else 0


def touched_blocks(regime: str, len_q: int, len_k: int) -> float:
    """Blocks of a sequence that at least one query of one KV head lists: what has to be read at least once.

    In `hot_block` exactly, in the others as expected over seeds.
    """
    every = visible_blocks(len_q, len_k)
    if not every:
        return 0.0
    first = max(0, len_k - len_q) // BLOCK
    own = every - first
    if regime == "hot_block":
        return float(min(every, own + min(first, TOP_K - 1)))
    if regime == "m3_like":
        middle = max(0, first - 2)
        stretches = -(-len_q // STRETCH)
        hit = middle * (1 - max(0.0, 1 - STRIPES / middle) ** stretches) if middle else 0.0
        return min(float(every), own + min(first, 2) + hit)
    drawn = sum(min(short_count(p), TOP_K) - 1 for p in range(SHORT_PERIOD)) / SHORT_PERIOD if regime == "short" else 15
    return own + first * (1 - max(0.0, 1 - drawn / first) ** len_q) if first else float(own)


STRIPES = 26
"""Blocks from which the regime `m3_like` takes the distant part of its lists, for a stretch of positions."""
STRETCH = 512
"""Positions after which they change."""


def attend_bytes(
    regime: str, lens_q: Sequence[int], lens_k: Sequence[int], heads_q: int, heads_kv: int
) -> tuple[float, float]:
    """(read, written): Q, ids, offsets, and keys and values of every listed block once; out."""
    tokens = sum(lens_q)
    blocks = sum(touched_blocks(regime, q, k) * min(1.0, k / (visible_blocks(q, k) * BLOCK or 1)) for q, k in zip(
        lens_q, lens_k, strict=True
    ))  # fmt: skip
    q = 2.0 * tokens * heads_q * HEAD_DIM
    ids = 4.0 * heads_kv * tokens * TOP_K
    offsets = 8.0 * (len(lens_q) + 1)
    return q + ids + offsets + 2 * 2.0 * heads_kv * blocks * BLOCK * HEAD_DIM, q


def q_outer_bytes(tokens: int, heads_q: int, heads_kv: int, blocks: float = TOP_K) -> float:
    """A program for each query and KV head: Q in, out out, and every listed block for that query alone."""
    return 4.0 * heads_q * tokens * HEAD_DIM + 4.0 * heads_kv * tokens * blocks * BLOCK * HEAD_DIM


def kv_outer_bytes(tokens: int, keys: int, heads_q: int, heads_kv: int, blocks: float = TOP_K) -> float:
    """Keys and values once; each query gathered for each of its blocks, its partial result written and read again."""
    kv = 4.0 * heads_kv * keys * HEAD_DIM
    partials = 4.0 * heads_q * tokens * blocks * HEAD_DIM
    return kv + partials + 2.0 * heads_q * tokens * (blocks + 1) * HEAD_DIM


def union_bytes(tokens: int, heads_q: int, heads_kv: int, tile: int, union: float) -> float:
    """`tile` neighbouring queries share the `union` blocks that at least one of them lists."""
    return 4.0 * heads_q * tokens * HEAD_DIM + 4.0 * heads_kv * (tokens / tile) * union * BLOCK * HEAD_DIM


def union_waste(union: float, blocks: float = TOP_K) -> float:
    """Matrix work of a union tile over the useful one."""
    return union / blocks


def partial_bytes(tokens: int, heads_q: int, blocks: int = TOP_K) -> float:
    """Buffers of KV-outer: a locally normalised partial in two bytes and a log-sum-exp in four."""
    return tokens * heads_q * blocks * (2.0 * HEAD_DIM + 4.0)
