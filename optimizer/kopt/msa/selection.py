"""The published generator of block lists and of tensors to attend with; a seed gives the same on one device.

| regime | what a query lists, beside its own block |
|---|---|
| random | 15 of the blocks before, uniformly: neighbours share little, the worst case for tiles of queries |
| m3_like | block 0 (19 of 20 queries), the block before, 10 stripes, the rest from 16 more stripes |
| hot_block | block 0 and the same 14 for all queries of a sequence: every query hits each of them |
| short | 0 to 14 blocks before, uniformly: -1 to the right |

Stripes of `m3_like` change every 512 positions. Four neighbours list about 22 different blocks (of 64) and eight about
26 (of 128), as was measured on live M3 traffic (vLLM's notes). Below some 3,700 positions it is `random`.

Where a query sees fewer blocks than it would list, it lists all of them. Lists are left-packed, distinct and in random
order; the own block is always among them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kopt.msa import BLOCK, TOP_K
from kopt.msa.arithmetic import SHORT_PERIOD, STRETCH, STRIPES
from kopt.msa.reference import places, sequences

if TYPE_CHECKING:
    import torch

REGIMES = ("random", "m3_like", "hot_block", "short")
FULL = ("random", "m3_like", "hot_block")
"""Regimes that list as many blocks as there are to list, up to 16."""
OUTLIER = 1.0e4
"""Size of the logits that `outlier_qk` makes."""
_CORE = 10
"""Stripes that every query of a stretch lists; the others are taken in turns."""


def generator(seed: int, *words: object, device: str = "cpu") -> torch.Generator:
    """Random numbers for one purpose, which the words name."""
    import torch

    digest = hashlib.sha256(" ".join(map(str, (*words, seed))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def split(total: int, count: int) -> list[int]:
    """Uneven lengths that add up: 1 : 2 : 3 ..., the last taking what is left; the same for everybody."""
    weights = count * (count + 1) // 2
    lengths = [total * (i + 1) // weights for i in range(count - 1)]
    return [*lengths, total - sum(lengths)] if count else []


def offsets(lengths: list[int], device: str = "cpu") -> torch.Tensor:
    """[sequences + 1] int32."""
    import torch

    total, found = 0, [0]
    for length in lengths:
        total += length
        found.append(total)
    return torch.tensor(found, dtype=torch.int32, device=device)


def select(regime: str, cu_q: torch.Tensor, cu_k: torch.Tensor, heads_kv: int, rng: torch.Generator) -> torch.Tensor:
    """ids [HKV, T, 16] int32 on the device of `rng`, where the offsets have to be too."""
    import torch

    tokens = int(cu_q[-1])
    position = places(cu_q, cu_k, tokens).position
    own = torch.where(position >= 0, position // BLOCK, -1).expand(heads_kv, -1)
    if regime == "m3_like":
        before = _stripes(own, position, cu_q, cu_k, rng)
    elif regime == "hot_block":
        before = _hot(own, cu_q, cu_k, rng)
    else:
        before = _uniform(own, rng)
        if regime == "short":
            # The last columns first: where few blocks are visible, what is listed stands to the right.
            listed = position * 7 % SHORT_PERIOD
            before = before.masked_fill(_rank(before) >= listed[None, :, None], -1)
        elif regime != "random":
            raise ValueError(f"no regime {regime!r}; there are {', '.join(REGIMES)}")
    return packed(torch.cat([own[..., None], before], dim=2), rng)


def packed(ids: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Lists [..., 16] in random order, -1 to the right, int32."""
    import torch

    key = torch.rand(ids.shape, generator=rng, device=ids.device).masked_fill(ids < 0, 2.0)
    return ids.gather(-1, key.argsort(-1)).int()


def _rank(ids: torch.Tensor) -> torch.Tensor:
    """For each valid entry how many valid ones stand to the left of it."""
    return (ids >= 0).long().cumsum(-1) - 1


def _uniform(own: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """[HKV, T, 15]: distinct blocks before the own one (Floyd's algorithm), or all; -1 where there are none."""
    import torch

    found = torch.full((*own.shape, TOP_K - 1), -1, dtype=torch.long, device=own.device)
    for i in range(TOP_K - 1):
        last = own - (TOP_K - 1) + i
        drawn = (torch.rand(own.shape, generator=rng, device=own.device, dtype=torch.float64) * (last + 1)).long()
        taken = (found == drawn[..., None]).any(-1)
        found[..., i] = torch.where(last < 0, -1, torch.where(taken, last, drawn))
    return found


def _hot(own: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """[HKV, T, 15]: block 0 and 14 more that all queries of a sequence see, or the first 14."""
    import torch

    found = torch.full((*own.shape, TOP_K - 1), -1, dtype=torch.long, device=own.device)
    for asked, keys in sequences(cu_q, cu_k):
        first = max(0, (keys.stop - keys.start) - (asked.stop - asked.start)) // BLOCK
        for head in range(own.shape[0]):
            others = 1 + torch.randperm(max(TOP_K - 2, first - 1), generator=rng, device=own.device)[: TOP_K - 2]
            hot = torch.cat([others.new_zeros(1), others])
            found[head, asked] = torch.where(hot[None, :] < own[head, asked, None], hot[None, :], -1)
    return found


def _stripes(
    own: torch.Tensor, position: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """[HKV, T, 15]: see the table above. A stretch has one stripe in each of 26 equal parts of the distant past."""
    import torch

    found = _uniform(own, rng)
    heads = own.shape[0]
    for asked, _ in sequences(cu_q, cu_k):
        if asked.stop == asked.start:
            continue
        at = position[asked]
        stretch = (at // STRETCH).clamp(min=0)
        first = int(stretch.min())
        count = int(stretch.max()) - first + 1
        # Blocks 1 to middle, of which all queries of the stretch see each, and none is the one before their own.
        begin = torch.maximum((torch.arange(count, device=own.device) + first) * STRETCH, at.min())
        middle = begin // BLOCK - 2
        part = torch.rand((heads, count, STRIPES), generator=rng, device=own.device).argsort(-1)
        where = torch.rand((heads, count, STRIPES), generator=rng, device=own.device, dtype=torch.float64)
        low, high = (p * middle[None, :, None] // STRIPES for p in (part, part + 1))
        stripes = 1 + low + (where * (high - low)).long()
        index = stretch - first
        enough = middle[index] >= STRIPES
        core = stripes[:, index, :_CORE]
        fringe = stripes[:, index, _CORE:]
        turn = torch.rand(fringe.shape, generator=rng, device=own.device).argsort(-1)[..., : TOP_K - 3 - _CORE + 1]
        some = fringe.gather(-1, turn)
        # Block 0 takes the place of the last of them for nearly all queries.
        sink = torch.rand(some.shape[:2], generator=rng, device=own.device) < 0.95
        some[..., -1] = torch.where(sink, 0, some[..., -1])
        lists = torch.cat([(own[:, asked] - 1)[..., None], core, some], dim=2)
        found[:, asked] = torch.where(enough[None, :, None], lists, found[:, asked])
    return found


def normal_qkv(
    tokens: int, keys: int, heads_q: int, heads_kv: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [T, HQ, 128], k and v [S, HKV, 128] bf16: what head-wise RMS norm makes of q and k, and values of size one."""
    import torch

    from kopt.msa import HEAD_DIM

    return (
        torch.randn((tokens, heads_q, HEAD_DIM), generator=rng, device=rng.device).bfloat16(),
        torch.randn((keys, heads_kv, HEAD_DIM), generator=rng, device=rng.device).bfloat16(),
        torch.randn((keys, heads_kv, HEAD_DIM), generator=rng, device=rng.device).bfloat16(),
    )


def outlier_qk(q: torch.Tensor, k: torch.Tensor, rng: torch.Generator) -> None:
    """In place: half of the query rows and a sixteenth of the keys get a common direction, so that logits reach ±1e4.

    A softmax shifted by anything but the maximum of the row itself overflows, or loses everything.
    """
    import torch

    size = q.shape[-1]
    direction = (torch.randint(0, 2, (size,), generator=rng, device=q.device) * 2 - 1).float()
    # (a * direction) . (b * direction) / sqrt(128) = a b sqrt(128)
    strength = (OUTLIER / size**0.5) ** 0.5
    for tensor, share in ((q, 0.5), (k, 1 / 16)):
        chosen = torch.rand(tensor.shape[:2], generator=rng, device=q.device) < share
        sign = (torch.randint(0, 2, tensor.shape[:2], generator=rng, device=q.device) * 2 - 1).float()
        added = strength * (sign * chosen)[..., None] * direction
        tensor.copy_((tensor.float() + added).to(tensor.dtype))
