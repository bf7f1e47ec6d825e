"""Kernels for the task `blend`, which use torch alone, so that the same sources run on both backends.

Those that cheat or break, and honest ones with unusual habits, are files of tests/attacks.
"""

from __future__ import annotations

from pathlib import Path

ATTACKS = Path(__file__).parents[1] / "attacks"

COMPUTE = """
import torch

def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)
"""


def kernel(body: str, prelude: str = "") -> str:
    """A source whose entry has this body; `compute` does the honest work."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return f"{COMPUTE}\n{prelude}\n\ndef blend(a, scale, b, out):\n{lines}\n"


def attack(name: str) -> str:
    return (ATTACKS / "guilty" / f"{name}.py").read_text()


PLAIN = kernel("compute(a, scale, b, out)")
ZEROS = kernel("out.zero_()")
WORKSPACE = (ATTACKS / "honest" / "workspace.py").read_text()
