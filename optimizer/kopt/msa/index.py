"""Which blocks the index branch may choose, and whether a list is one of the right ones: by scores, for lists tie.

Layouts: iq [T, H, 128], ik [S, 128], cu_q and cu_k [sequences + 1], ids [H, T, 16]; see the package's text. Scores here
are not scaled by 1/sqrt(128), which changes no order. A token whose score is NaN counts for nothing; a block without a
score above -inf has the lowest score that fp32 can hold, and is still a block that may be listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kopt.msa import BLOCK, HEAD_DIM, TOP_K
from kopt.msa.reference import places, sequences, top_blocks

if TYPE_CHECKING:
    import torch

LOWEST = -3.4028234663852886e38
"""The lowest finite fp32 number."""
SUM_LOSS = HEAD_DIM * 2.0**-22
"""Of the sum of |q| |k|, what a sum of 128 products may lose. Products of bf16 are exact in fp32; matrix units add in
any order and cut off instead of rounding, and two of fp32's 24 bits are left to them."""
_HELD = 1 << 26
"""Token scores that are held at a time."""


@dataclass(frozen=True)
class Scored:
    """Some queries of one sequence."""

    at: slice
    """Their places among the queries asked for."""
    tokens: torch.Tensor
    """[n] int64: their rows among the T queries."""
    position: torch.Tensor
    """[n] int64, negative where a query comes before every key."""
    score: torch.Tensor
    """[H, n, blocks] float64; -inf where no token of a block is visible."""
    error: torch.Tensor
    """[H, n, blocks] float64: how far an honest score may be off; empty where nobody asked."""


def scored(
    iq: torch.Tensor, ik: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, rows: torch.Tensor | None = None, *,
    errors: bool = True,
) -> Iterator[Scored]:  # fmt: skip
    """Block scores of all queries, or of some in ascending order, so many at a time that their token scores fit."""
    import torch

    where = places(cu_q, cu_k, iq.shape[0]).position
    if rows is None:
        rows = torch.arange(iq.shape[0], device=iq.device)
    for asked, keys in sequences(cu_q, cu_k):
        step = max(1, _HELD // (iq.shape[1] * max(1, keys.stop - keys.start)))
        first, last = (int((rows < edge).sum()) for edge in (asked.start, asked.stop))
        for begin in range(first, last, step):
            at = slice(begin, min(begin + step, last))
            tokens = rows[at]
            yield Scored(at, tokens, where[tokens], *_scores(iq[tokens], ik[keys], where[tokens], errors))


def _scores(
    q: torch.Tensor, k: torch.Tensor, position: torch.Tensor, errors: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    q, k = q.double().transpose(0, 1), k.double()
    token = q @ k.T
    seen = torch.arange(k.shape[0], device=k.device) <= position[:, None]
    error = token.new_zeros(0)
    if errors:
        size = torch.where(token.isfinite() & seen, q.abs() @ k.abs().T, 0.0)
        error = _blocks(size, 0.0) * SUM_LOSS
    token = torch.where(token > LOWEST, token, LOWEST).masked_fill_(~seen, float("-inf"))
    return _blocks(token, float("-inf")), error


def _blocks(token: torch.Tensor, nothing: float) -> torch.Tensor:
    """The largest of each block's tokens."""
    import torch

    if missing := -token.shape[-1] % BLOCK:
        token = torch.nn.functional.pad(token, (0, missing), value=nothing)
    return token.unflatten(-1, (-1, BLOCK)).amax(-1)


def choose(iq: torch.Tensor, ik: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor) -> torch.Tensor:
    """ids [H, T, 16] int32: the own block first, then the best others; of equal scores the lower number."""
    import torch

    ids = torch.full((iq.shape[1], iq.shape[0], TOP_K), -1, dtype=torch.int32, device=iq.device)
    for part in scored(iq, ik, cu_q, cu_k, errors=False):
        if part.score.shape[-1]:
            # Nothing may equal the infinity that stands for the own block.
            ids[:, part.at] = top_blocks(part.score.clamp(max=-LOWEST), part.position)
    return ids


Fault = dict[str, Any]
"""rule, message, place, got, want, bound: what a task's `check` hook reports."""


def faults(
    iq: torch.Tensor, ik: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, ids: torch.Tensor, *, exact: bool,
    rows: torch.Tensor | None = None,
) -> list[Fault]:  # fmt: skip
    """What is wrong with lists, each broken rule once, told of the first list that breaks it.

    A query at position p >= 0 sees blocks 0 to p // 128, the last of which is its own. Its list holds min(16, visible)
    of them to the left and -1 to the right, all distinct, its own among them; and every other one scores at least as
    high as the last of the best 15 others, less what sums of 128 products lose: score + error >= that of score - error.
    `exact`: the scores listed are those of the best, in any choice among equals. `rows`: ids [H, len(rows), 16] are
    the lists of these queries alone.
    """
    if rows is not None:
        rows, order = rows.sort()
        ids = ids[:, order]
    found: dict[str, Fault] = {}
    for part in scored(iq, ik, cu_q, cu_k, rows):
        for fault in _Lists(part, ids[:, part.at].long()).faults(exact):
            found.setdefault(fault["rule"], fault)
    return list(found.values())


class _Lists:
    """The lists of some queries, looked at together."""

    def __init__(self, part: Scored, ids: torch.Tensor) -> None:
        import torch

        self.part, self.ids = part, ids
        self.own = torch.where(part.position >= 0, part.position // BLOCK, -1).expand(ids.shape[:2])
        self.count = (self.own + 1).clamp(max=TOP_K)
        slot = torch.arange(TOP_K, device=ids.device)
        self.listed = slot < self.count[..., None]

    def faults(self, exact: bool) -> Iterator[Fault]:
        """Scores are looked at only in lists that are lists."""
        import torch

        packed = torch.where(self.listed, self.ids >= 0, self.ids == -1)
        visible = ~self.listed | (self.ids < 0) | (self.ids <= self.own[..., None])
        ordered = torch.where(self.listed, self.ids, -1 - torch.arange(TOP_K, device=self.ids.device)).sort(-1).values
        repeated = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        owned = (self.own < 0) | (self.ids == self.own[..., None]).any(-1)
        whole = packed.all(-1) & visible.all(-1) & ~repeated.any(-1) & owned
        if not packed.all():
            yield self._count(~packed.all(-1))
        if not visible.all():
            yield self._visible(~visible)
        if repeated.any():
            yield self._distinct(repeated.any(-1), ordered)
        if not owned.all():
            yield self._own(~owned)
        yield from self._scores(whole, exact)

    def _scores(self, whole: torch.Tensor, exact: bool) -> Iterator[Fault]:
        import torch

        score, error = self.part.score, self.part.error
        if not score.shape[-1]:
            return
        other = torch.arange(score.shape[-1], device=score.device) < self.own[..., None]
        others = min(TOP_K - 1, score.shape[-1])
        best = score.masked_fill(~other, float("-inf")).topk(others).values
        safe = (score - error).masked_fill(~other, float("-inf")).topk(others).values
        last = (self.count - 2).clamp(min=0)[..., None]
        floor = safe.gather(-1, last.clamp(max=others - 1))
        judged = self.listed & whole[..., None] & (self.ids != self.own[..., None])
        at = torch.where(judged, self.ids, 0)
        got, slack = score.gather(-1, at), error.gather(-1, at)
        if exact:
            mine = torch.where(judged, got, float("-inf")).sort(-1, descending=True).values[..., :others]
            if (bad := (mine != best) & whole[..., None]).any():
                yield self._inexact(bad, mine, best)
        elif (bad := judged & (got + slack < floor)).any():
            yield self._low(bad, got, slack, best.gather(-1, last.clamp(max=others - 1)))

    def _count(self, bad: torch.Tensor) -> Fault:
        head, n = self._first(bad)
        count = int(self.count[head, n])
        fault = self._fault("msa_index.packed", bad, head, n, f"{count} blocks to the left and -1 after them")
        return {**fault, "got": self._words(head, n), "want": f"{count} blocks"}

    def _visible(self, bad: torch.Tensor) -> Fault:
        head, n = self._first(bad.any(-1))
        own, block = int(self.own[head, n]), int(self.ids[head, n][bad[head, n]][0])
        fault = self._fault("msa_index.visible", bad.any(-1), head, n, f"block {block} is not visible, 0 to {own} are")
        return {**fault, "got": str(block), "want": f"at most {own}"}

    def _distinct(self, bad: torch.Tensor, ordered: torch.Tensor) -> Fault:
        head, n = self._first(bad)
        row = ordered[head, n]
        block = int(row[1:][(row[1:] == row[:-1]) & (row[1:] >= 0)][0])
        fault = self._fault("msa_index.distinct", bad, head, n, f"block {block} is listed more than once")
        return {**fault, "got": self._words(head, n), "want": "distinct blocks"}

    def _own(self, bad: torch.Tensor) -> Fault:
        head, n = self._first(bad)
        own = int(self.own[head, n])
        fault = self._fault("msa_index.own", bad, head, n, f"the own block {own} is not listed")
        return {**fault, "got": self._words(head, n), "want": f"block {own} among them"}

    def _low(self, bad: torch.Tensor, got: torch.Tensor, slack: torch.Tensor, last: torch.Tensor) -> Fault:
        head, n = self._first(bad.any(-1))
        slot = int(bad[head, n].int().argmax())
        block, score, want = int(self.ids[head, n, slot]), float(got[head, n, slot]), float(last[head, n, 0])
        bound = float(slack[head, n, slot])
        words = f"block {block} scores {score:.7g}, the last of the best {want:.7g}, and sums may be off by {bound:.2g}"
        fault = self._fault("msa_index.score", bad.any(-1), head, n, words, f" block {block}")
        return {**fault, "got": f"{score:.9g}", "want": f"at least {want:.9g}", "bound": f"{bound:.3g}"}

    def _inexact(self, bad: torch.Tensor, mine: torch.Tensor, best: torch.Tensor) -> Fault:
        head, n = self._first(bad.any(-1))
        at = int(bad[head, n].int().argmax())
        score, want = float(mine[head, n, at]), float(best[head, n, at])
        place = self.part.score[head, n].masked_fill(self.part.score[head, n] != score, float("-inf")).argmax()
        words = f"number {at + 1} of the others scores {score:.7g}, that of the best {want:.7g} exactly"
        fault = self._fault("msa_index.exact", bad.any(-1), head, n, words, f" block {int(place)}")
        return {**fault, "got": f"{score:.9g}", "want": f"{want:.9g}", "bound": "0"}

    def _first(self, bad: torch.Tensor) -> tuple[int, int]:
        # By token, then by head.
        n, head = bad.T.nonzero()[0].tolist()
        return head, n

    def _words(self, head: int, n: int) -> str:
        return " ".join(str(i) for i in self.ids[head, n].tolist())

    def _fault(self, rule: str, bad: torch.Tensor, head: int, n: int, words: str, more: str = "") -> Fault:
        token, lists = int(self.part.tokens[n]), int(bad.sum())
        others = f"; {lists} of {bad.numel()} lists looked at" if lists > 1 else ""
        return {
            "rule": rule,
            "message": f"{words}{others}",
            "place": f"token {token} (position {int(self.part.position[n])}) head {head}{more}",
        }
