"""`blend` with a baseline that raises."""

from __future__ import annotations

import torch

GROUPS = (("a", "scale"), ("b",))
SEPARABLE = ("M", "N")


def make_inputs(dims, family, seed, device):
    rng = torch.Generator(device).manual_seed(seed)
    m, n, k = dims["M"], dims["N"], dims["K"]
    if family == "integers":
        a = torch.randint(-4, 5, (m, k), generator=rng, device=device).float()
        b = torch.randint(-4, 5, (n, k), generator=rng, device=device).float()
        return {"a": a, "b": b, "scale": torch.tensor([0.5], device=device)}
    a, b = torch.randn((m, k), generator=rng, device=device), torch.randn((n, k), generator=rng, device=device)
    return {"a": a, "b": b, "scale": torch.rand(1, generator=rng, device=device) + 2.0}


def reference(inputs, dims):
    return {"out": inputs["scale"].double() * (inputs["a"].double() @ inputs["b"].double().T)}


def cost(dims):
    m, n, k = dims["M"], dims["N"], dims["K"]
    return {"flops": 2.0 * m * n * k, "read": 4.0 * (m * k + n * k + 1), "written": 4.0 * m * n}


def baseline(a, scale, b, out):
    raise RuntimeError("the library does not know this shape")
