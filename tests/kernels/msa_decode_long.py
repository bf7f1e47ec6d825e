"""Run in Triton's interpreter: what kernels/msa_decode/split_k.py, the argument, lists and answers for long tables.

Prints a JSON object: "lists", whether `best` finds the list of a sorted order for lengths up to 65,536 pages, by EACH,
MAXIMA, length and kind of scores; "calls", by parameters, how far a call over 1,030 pages is from the reference.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import families
import torch
import triton
import triton.language as tl

from kopt.evaluate.worker import rounding
from kopt.msa import paged
from kopt.msa.selection import generator

LONGEST = {1: 128, 8: 1024, 64: 8192, 512: 65536}
"""Pages of a request, by what a table's length makes of EACH."""
KINDS = {
    "distinct": lambda n, rng: torch.randperm(n, generator=rng).float() - n / 2,
    "equal": lambda n, rng: torch.randint(-1, 2, (n,), generator=rng) * -0.0,
    "few values": lambda n, rng: torch.randint(-3, 4, (n,), generator=rng).float(),
    "rising": lambda n, rng: torch.arange(n).float(),
    "few": lambda n, rng: torch.rand(n, generator=rng).log().where(torch.rand(n, generator=rng) < 9 / n, -torch.inf),
}  # fmt: skip


def load(path: str) -> Any:
    rounding.install()
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=132)
    return families.load(Path(path))


split_k = load(sys.argv[1])


@triton.jit
def best(score_ptr, most_ptr, out_ptr, count, EACH: tl.constexpr, MAXIMA: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, 16), split_k.best(score_ptr, most_ptr, count, EACH, MAXIMA))


def listed(score: torch.Tensor, each: int, maxima: int) -> list[int]:
    count = len(score)
    padded = torch.full((-(-count // 8) * 8,), -torch.inf)
    padded[:count] = score
    out = torch.zeros(16, dtype=torch.int32)
    most = padded.view(-1, 8).amax(1)
    # What lies behind is another request's.
    behind = torch.full((64,), torch.inf)
    best[(1,)](torch.cat([score, behind]), torch.cat([most, behind]), out, count, EACH=each, MAXIMA=maxima)
    return out.tolist()


def wanted(score: torch.Tensor) -> list[int]:
    order = torch.argsort(score, descending=True, stable=True)[:15]
    found = [int(i) if score[i] > -torch.inf else -1 for i in order]
    return [-1, *found, *[-1] * (15 - len(found))]


def call(parameters: dict[str, int]) -> float:
    """Relative error of a request to two KV heads; few pages, which many places of the table name."""
    rng = generator(7)
    pages = 40
    made = {
        "q": torch.randn(1, 32, 128, generator=rng).bfloat16(),
        "kc": torch.randn(pages, 2, 128, 128, generator=rng).bfloat16(),
        "vc": torch.randn(pages, 2, 128, 128, generator=rng).bfloat16(),
        "iq": torch.empty(1, 2, 128).random_(-8, 9, generator=rng).bfloat16(),
        "ikc": torch.empty(pages, 128, 128).random_(-8, 9, generator=rng).bfloat16(),
        "table": torch.randint(0, pages, (1, 1040), generator=rng, dtype=torch.int32),
        "lens": torch.tensor([1030 * 128 - 77], dtype=torch.int32),
    }
    out = torch.full((1, 32, 128), float("nan"), dtype=torch.bfloat16)
    split_k.msa_decode(*made.values(), out, **parameters)
    expected = paged.decode_rows(made, errors=False).out
    return ((out.double() - expected).norm() / expected.norm()).item()


def main() -> None:
    lists: dict[str, bool] = {}
    rng = generator(3)
    for each, longest in LONGEST.items():
        for maxima in (0, 1) if each >= 64 else (0,):
            for count in (longest, longest - 77, longest // 2 + 1, 5):
                for kind, draw in KINDS.items():
                    score = draw(count, rng)
                    lists[f"{each} {maxima} {count} {kind}"] = listed(score, each, maxima) == wanted(score)
    ways = ({"MAXIMA": 0, "LAST": 0}, {"MAXIMA": 1, "LAST": 1})
    print(json.dumps({"lists": lists, "calls": {str(way): call(way) for way in ways}}))


if __name__ == "__main__":
    main()
