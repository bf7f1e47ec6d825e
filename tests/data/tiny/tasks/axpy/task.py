"""Hooks of a tiny task: out = 2 x + y."""

from __future__ import annotations

from typing import Any


def make_inputs(dims: dict[str, int], family: str, seed: int, device: str) -> dict[str, Any]:
    import torch

    rng = torch.Generator(device).manual_seed(seed)
    if family == "integers":
        return {name: torch.randint(-8, 9, (dims["N"],), generator=rng, device=device).float() for name in ("x", "y")}
    return {name: torch.randn(dims["N"], generator=rng, device=device) for name in ("x", "y")}


def reference(inputs: dict[str, Any], dims: dict[str, int]) -> dict[str, Any]:
    return {"out": 2.0 * inputs["x"].double() + inputs["y"].double()}


def cost(dims: dict[str, int]) -> dict[str, float]:
    return {"flops": 2.0 * dims["N"], "read": 8.0 * dims["N"], "written": 4.0 * dims["N"]}
