"""Run in Triton's interpreter: what the families of kernels/msa_prefill make of one key or value that is no number.

Prints a JSON object: by family and case, whether it shows in all queries that see it and in none of the others, and the
largest error of these, in units of what is there on average.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from families import load

from kopt.evaluate.worker import rounding
from kopt.msa import reference, selection

KEYS, TOKENS, AT = 134, 10, 130


def one(entry: Any, name: str, value: float) -> dict[str, Any]:
    rng = selection.generator(0)
    q, k, v = selection.normal_qkv(TOKENS, KEYS, 8, 1, rng)
    iq, ik = (torch.randn(*size, 128, generator=rng).bfloat16() for size in ((TOKENS, 1), (KEYS,)))
    cu = selection.offsets([TOKENS]), selection.offsets([KEYS])
    want, _ = reference.dense(q, k, v, *cu)
    {"k": k, "v": v}[name][AT, 0, 5] = value
    out = torch.zeros(q.shape, dtype=torch.bfloat16)
    entry(q, k, v, iq, ik, *cu, out)
    sees = torch.arange(TOKENS) + KEYS - TOKENS >= AT
    # Of a value the dimension where it is, of a key all of them.
    shown = out[sees] if name == "k" else out[sees][:, :, 5]
    error = (out[~sees] - want[~sees]).abs().max() / want[~sees].abs().mean()
    return {"shows": not shown.isfinite().any(), "hidden": bool(out[~sees].isfinite().all()), "error": error.item()}


def main() -> None:
    rounding.install()
    cases = [("k", float("nan")), ("v", float("nan")), ("v", float("inf"))]
    found = {}
    for path in map(Path, sys.argv[1:]):
        entry = load(path).msa_prefill
        found |= {f"{path.stem}, {name} {value}": one(entry, name, value) for name, value in cases}
    print(json.dumps({name: {**row, "shows": bool(row["shows"])} for name, row in found.items()}))


if __name__ == "__main__":
    main()
