"""The attention of a whole MSA layer as a torch module: projections, norms, rotary embedding, index and attention.

    layer = MsaAttention(hidden=6144, heads=64, heads_kv=4).cuda().bfloat16()
    out = layer(x, cu)                                      # x [T, hidden], cu [sequences + 1] int32

On CUDA tensors index and attention are `kopt.load("msa_prefill")`, the published kernel for that GPU, which has no
gradient. On CPU tensors they are the reference of this package, in float64: right, and thousands of times slower;
`MsaAttention.runs_on(x)` says which.

As in MiniMax M3 (Hugging Face `minimax_m3_vl`): Gemma's RMS norm on each head of q, k and both index tensors, rotary
embedding on the first half of the head's dimensions (theta 5e6), one index key for all heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# A module of classes of torch's: unlike the rest of the package it is of no use, and not imported, without torch.
import torch
from torch import nn

from kopt.errors import UsageError
from kopt.msa import BLOCK, HEAD_DIM, TOP_K, index, reference

REFERENCE = f"the float64 reference of kopt.msa on the CPU ({TOP_K} blocks of {BLOCK}): for checking, not for speed"


class Projected(NamedTuple):
    """What attention works on: normed and rotated."""

    q: torch.Tensor
    """[T, HQ, 128]"""
    k: torch.Tensor
    """[T, HKV, 128]"""
    v: torch.Tensor
    """[T, HKV, 128]"""
    iq: torch.Tensor
    """[T, HKV, 128]"""
    ik: torch.Tensor
    """[T, 128]"""


class HeadNorm(nn.Module):  # type: ignore[misc]
    """Gemma's RMS norm over the last dimension: its weight is what is added to 1; computed in fp32."""

    def __init__(self, size: int = HEAD_DIM, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.float())).to(x.dtype)


def rotate(x: torch.Tensor, position: torch.Tensor, rotary: int, theta: float) -> torch.Tensor:
    """The first `rotary` dimensions of x [T, ..., D], turned in pairs (i, i + rotary / 2) by their position [T]."""
    half = rotary // 2
    frequency = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) * 2.0 / rotary)
    angle = position.float()[:, None] * frequency
    angle = angle.view(-1, *[1] * (x.ndim - 2), half)
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., :half].float(), x[..., half:rotary].float()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
    return torch.cat([turned, x[..., rotary:]], -1)


class MsaAttention(nn.Module):  # type: ignore[misc]
    """Heads have 128 dimensions; `heads` is 8 or 16 times `heads_kv`, which is also the number of index heads."""

    def __init__(
        self, hidden: int = 6144, heads: int = 64, heads_kv: int = 4, rotary: int = 64, theta: float = 5e6,
        eps: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__()
        if heads not in (8 * heads_kv, 16 * heads_kv):
            raise ValueError(
                f"heads: {heads} query heads over {heads_kv} KV heads; MSA's kernels take 8 or 16 for each"
            )
        if rotary % 2 or not 0 <= rotary <= HEAD_DIM:
            raise ValueError(f"rotary: {rotary} dimensions are turned; it has to be even and at most {HEAD_DIM}")
        self.heads, self.heads_kv, self.rotary, self.theta = heads, heads_kv, rotary, theta
        self.q_proj = nn.Linear(hidden, heads * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(hidden, heads_kv * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(hidden, heads_kv * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(heads * HEAD_DIM, hidden, bias=False)
        self.index_q_proj = nn.Linear(hidden, heads_kv * HEAD_DIM, bias=False)
        self.index_k_proj = nn.Linear(hidden, HEAD_DIM, bias=False)
        self.q_norm, self.k_norm = HeadNorm(eps=eps), HeadNorm(eps=eps)
        self.index_q_norm, self.index_k_norm = HeadNorm(eps=eps), HeadNorm(eps=eps)
        self._op: Any = None

    def forward(self, x: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
        """[T, hidden] from x [T, hidden] and cu [sequences + 1] int32, where each sequence begins; whole sequences."""
        position = reference.places(cu, cu, x.shape[0]).position
        mine = self.project(x, position)
        return self.output(self.attend(*mine, cu, cu))

    def project(self, x: torch.Tensor, position: torch.Tensor) -> Projected:
        """Of tokens x [T, hidden] at positions [T]. k, v and ik are what a cache holds."""

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (-1, HEAD_DIM))

        def turned(y: torch.Tensor) -> torch.Tensor:
            return rotate(y, position, self.rotary, self.theta)

        return Projected(
            turned(self.q_norm(heads(self.q_proj(x)))),
            turned(self.k_norm(heads(self.k_proj(x)))),
            heads(self.v_proj(x)).contiguous(),
            turned(self.index_q_norm(heads(self.index_q_proj(x)))),
            turned(self.index_k_norm(self.index_k_proj(x))),
        )

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, iq: torch.Tensor, ik: torch.Tensor,
        cu_q: torch.Tensor, cu_k: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """out [T, HQ, 128] of queries that are the last of their sequences; keys may come from a cache."""
        tensors = (q, k, v, iq, ik)
        if q.is_cuda:
            return self._published()(*(tensor.contiguous() for tensor in tensors), cu_q, cu_k)
        ids = index.choose(iq, ik, cu_q, cu_k)
        return reference.attend_rows(q, k, v, ids, cu_q, cu_k, errors=False).out.to(q.dtype)

    def output(self, attended: torch.Tensor) -> torch.Tensor:
        """[T, hidden] from [T, HQ, 128]."""
        return self.o_proj(attended.flatten(1))

    def runs_on(self, x: torch.Tensor) -> str:
        """What computes index and attention for a tensor of x's device."""
        return repr(self._published()) if x.is_cuda else REFERENCE

    def _published(self) -> Any:
        if self._op is None:
            import kopt

            try:
                self._op = kopt.load("msa_prefill")
            except UsageError as error:
                raise UsageError(
                    f"MsaAttention on CUDA tensors: {error}; on CPU tensors the reference is used"
                ) from error
        return self._op
