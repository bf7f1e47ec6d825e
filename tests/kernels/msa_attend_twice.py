"""Run in Triton's interpreter: what the families of kernels/msa_attend make of a block that a list names twice.

Prints a JSON object: by family, how far the queries with such a list are from the nearest of the two documented
results, and whether the others are the same bits as without.
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


def weighed(q: Any, k: Any, v: Any, ids: Any, cu: Any, times: int) -> Any:
    """Dense attention over blocks 0 and 1 where block 0 weighs `times`; block 1 is the own one."""
    parts = [
        reference.attend(q, k, v, ids.new_tensor([block]).expand(1, len(q), 1), *cu) for block in [0] * times + [1]
    ]
    return reference.merge(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))[0]


def main() -> None:
    rounding.install()
    rng = selection.generator(0)
    q, k, v = selection.normal_qkv(6, 200, 8, 1, rng)
    cu = selection.offsets([6]), selection.offsets([200])
    plain = torch.full((1, 6, 16), -1, dtype=torch.int32)
    plain[..., :2] = torch.tensor([1, 0])
    twice = plain.clone()
    twice[0, 2, 2] = twice[0, 4, 2] = 0
    results = [weighed(q, k, v, plain, cu, times) for times in (1, 2)]
    found = {}
    for path in map(Path, sys.argv[1:]):
        module = load(path)
        outs = []
        for ids in (plain, twice):
            outs.append(torch.full(q.shape, float("nan"), dtype=torch.bfloat16))
            module.msa_attend(q, k, v, ids, *cu, outs[-1])
        rows, others = [2, 4], [0, 1, 3, 5]
        off = [((outs[1] - want)[rows].norm() / want[rows].norm()).item() for want in results]
        found[path.stem] = {"off": min(off), "others": torch.equal(outs[0][others], outs[1][others])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
