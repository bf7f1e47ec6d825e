"""out = a @ b.T in bf16."""

from __future__ import annotations

import torch

GROUPS = (("a",), ("b",))
SEPARABLE = ("M", "N")


def make_inputs(dims, family, seed, device):
    rng = torch.Generator(device).manual_seed(seed)
    a = torch.randn((dims["M"], dims["K"]), generator=rng, device=device).bfloat16()
    return {"a": a, "b": torch.randn((dims["N"], dims["K"]), generator=rng, device=device).bfloat16()}


def reference(inputs, dims):
    return {"out": inputs["a"].double() @ inputs["b"].double().T}


def cost(dims):
    m, n, k = dims["M"], dims["N"], dims["K"]
    return {"flops": 2.0 * m * n * k, "read": 2.0 * (m * k + n * k), "written": 2.0 * m * n}


def baseline(a, b, out):
    torch.mm(a, b.T, out=out)
