"""Inputs of the decoding tasks: page tables, lengths and caches, by family; bf16 or e4m3.

| family | what it is |
|---|---|
| paged | pages in random order, rows of the table full but for part of the last page |
| contiguous | the same with consecutive pages: a cache that is not paged |
| ragged | lengths from 0, of whole blocks and one token more or less |
| pick | every query head attends to one token of its list alone: out is a row of vc, exactly |
| outlier | logits of ±1e4 |
| odd | NaN in keys, values, index keys and queries; page numbers that are none; lengths beyond the table and below 0 |

Index queries and keys are integers from -8 to 8 in all of them, so that scores are exact and lists are the same for
everybody. What is not in use is NaN, and the rest of the table's rows holds numbers of no page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kopt.msa import BLOCK, HEAD_DIM
from kopt.msa.paged import Tensors, lengths, lists, pages_of
from kopt.msa.selection import generator, outlier_qk

if TYPE_CHECKING:
    import torch

FAMILIES = ("paged", "contiguous", "ragged", "pick", "outlier", "odd")
FAR = (-(2**31), -7, -1, 2**24, 2**31 - 1)
"""Numbers of no page, which 32-bit arithmetic on addresses turns into anything."""
PART = 1 << 26
"""Elements of a cache that are drawn at once."""
CODE = 32.0
"""What `pick` multiplies codes by: the picked key leads by 100 and more, and every other weight vanishes."""
QUANTUM = {"paged": (0.17, 0.023), "pick": (0.5, 0.25)}
"""Scales of kc and vc where they are e4m3; powers of two where results have to be exact."""


def make_integers(dims: dict[str, int], family: str, seed: int, device: str) -> Tensors:
    """table [B, WIDTH] and lens [B] int32."""
    import torch

    rng = generator(seed, "table", family, device=device)
    b, width, pages = dims["B"], dims["WIDTH"], dims["PAGES"]
    order = torch.arange(pages, device=device) if family == "contiguous" else torch.randperm(
        pages, generator=rng, device=device
    )  # fmt: skip
    table = order[pages - b * width :].view(b, width).int()
    lens = torch.tensor(lengths(dims, family), dtype=torch.int32, device=device)
    far = torch.tensor(FAR, dtype=torch.int64, device=device)
    nothing = far[torch.randint(0, len(FAR), table.shape, generator=rng, device=device)].int()
    unused = torch.arange(width, device=device) * BLOCK >= lens[:, None]
    if family == "odd":
        unused |= torch.rand(table.shape, generator=rng, device=device) < 0.08
        # The own block of one request for sure, and the first block of another.
        unused[2 % b, max(0, int(lens[2 % b]) - 1) // BLOCK % width] = True
        unused[b - 1, 0] = True
    return {"table": torch.where(unused, nothing, table), "lens": lens}


def make_inputs(dims: dict[str, int], family: str, seed: int, device: str, *, e4m3: bool = False) -> Tensors:
    """All inputs by name; `scales` [2] fp32 only where kc, vc and ikc are e4m3."""
    import torch

    integers = make_integers(dims, family, seed, device)
    rng = generator(seed, "cache", family, device=device)
    b, heads, pages = dims["B"], dims["HKV"], dims["PAGES"]
    scales = (1.0, 1.0) if not e4m3 else QUANTUM["pick" if family == "pick" else "paged"]
    narrow = torch.float8_e4m3fn if e4m3 else torch.bfloat16

    def filled(shape: tuple[int, ...], draw: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Drawn in fp32, a part at a time: caches of a GPU's size leave no room for twice as much beside them."""
        values = torch.empty(shape, dtype=narrow, device=device)
        for part in values.split(max(1, PART * shape[0] // values.numel())):
            drawn = draw(torch.empty(part.shape, device=device))
            part.copy_(drawn.clamp_(-448, 448) if e4m3 else drawn)
        return values

    def normal(scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
        # No pass over gigabytes that changes nothing.
        return lambda part: part.normal_(generator=rng) if scale == 1.0 else part.normal_(generator=rng).div_(scale)

    kc, vc = (filled((pages, heads, BLOCK, HEAD_DIM), normal(scale)) for scale in scales)
    q = torch.randn((b, dims["HQ"], HEAD_DIM), generator=rng, device=device).bfloat16()
    iq = torch.empty((b, heads, HEAD_DIM), device=device).random_(-8, 9, generator=rng).bfloat16()
    ikc = filled((pages, BLOCK, HEAD_DIM), lambda part: part.random_(-8, 9, generator=rng))
    made = {"q": q, "kc": kc, "vc": vc, "iq": iq, "ikc": ikc}
    if e4m3:
        made["scales"] = torch.tensor(scales, dtype=torch.float32, device=device)
    made |= integers
    if family == "pick":
        _picking(made, rng, scales[0])
    elif family == "outlier":
        _outliers(made, rng, scales[0])
    elif family == "odd":
        _poison(made, rng)
    _unused(made)
    return made


def _picking(made: Tensors, rng: torch.Generator, scale: float) -> None:
    """Keys of kc become codes of 128 signs, a query the code of a token of its list."""
    import torch

    q, kc = made["q"], made["kc"]
    device, group = q.device, q.shape[1] // kc.shape[1]
    for part in kc.split(max(1, PART * len(kc) // kc.numel())):
        part.copy_((torch.randint(0, 2, part.shape, generator=rng, device=device, dtype=torch.int8) * 2 - 1) / scale)
    head = torch.arange(q.shape[1], device=device)
    for b, found in enumerate(lists(made, list(range(q.shape[0])))):
        if not found.tokens:
            continue
        token = torch.randint(0, found.tokens, head.shape, generator=rng, device=device)
        # The last token of what it sees, for one head of each group.
        token = torch.where(head % group == 0, found.tokens - 1, token)
        page = found.pages[head // group, token // BLOCK]
        q[b] = (CODE * scale) * pages_of(kc, page, head // group, token % BLOCK).to(q.dtype)


def _outliers(made: Tensors, rng: torch.Generator, scale: float) -> None:
    import torch

    kc = made["kc"].float() * scale
    outlier_qk(made["q"], kc.view(-1, BLOCK, HEAD_DIM), rng)
    wide = kc / scale
    made["kc"].copy_(wide.clamp(-448, 448) if made["kc"].dtype == torch.float8_e4m3fn else wide)


def _poison(made: Tensors, rng: torch.Generator) -> None:
    """NaN in one token of some blocks of a KV head, fewer of keys than of values, in some index keys, in a query.

    A key's NaN is that of all 16 queries that meet it, and hides what else may be wrong with them: the first of several
    requests is spared.
    """
    import torch

    def some(shape: tuple[int, ...], share: float) -> torch.Tensor:
        return (torch.rand(shape, generator=rng, device=rng.device) < share).nonzero()

    spared = set(made["table"][0].tolist()) if len(made["table"]) > 1 else set()
    for name, element, share in (("kc", 17, 1 / 50), ("vc", 90, 1 / 12)):
        for page, head in some(made[name].shape[:2], share).tolist():
            if name == "kc" and page in spared:
                continue
            made[name][page, head, (page * 5 + head) % 100, element] = float("nan")
    for page, token in some(made["ikc"].shape[:2], 1 / 300).tolist():
        made["ikc"][page, token, 3] = float("nan")
    made["q"][0, 1] = float("nan")


def _unused(made: Tensors) -> None:
    """NaN in all that no request has: pages, and the rest of a request's last page."""
    import torch

    table, pages = made["table"].long(), made["kc"].shape[0]
    width = table.shape[1]
    length = made["lens"].long().clamp(0, BLOCK * width)
    there = (table >= 0) & (table < pages)
    used = there & (torch.arange(width, device=table.device) * BLOCK < length[:, None])
    free = torch.ones(pages, dtype=torch.bool, device=table.device)
    free[table[used]] = False
    unused = free.nonzero().flatten()
    # Of each request's last page what lies beyond its last token.
    at = (length // BLOCK).clamp(max=width - 1)[:, None]
    partial = (length % BLOCK > 0) & there.gather(1, at).flatten()
    last, begin = table.gather(1, at).flatten()[partial], (length % BLOCK)[partial]
    beyond = torch.arange(BLOCK, device=table.device) >= begin[:, None]
    for name in ("kc", "vc", "ikc"):
        # All bits set are NaN in both formats. Words, because what is set here may be gigabytes.
        raw = made[name].view(torch.int64)
        raw.index_fill_(0, unused, -1)
        gone = beyond.view(len(last), *([1] * (raw.dim() - 3)), BLOCK, 1)
        raw[last] = raw[last].masked_fill(gone, -1)
