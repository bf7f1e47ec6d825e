"""Run in Triton's interpreter: kernels/msa_decode_e4m3/split_k.py, the argument, on queries far beyond fp16.

Prints a JSON object: by power of two, for index queries and for queries (whose logits the scale of keys brings back),
whether results are bit for bit those of queries of about one. Below fp16 and beyond it a power of two changes nothing
else.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

import families
import torch

from kopt.evaluate.worker import rounding
from kopt.msa.selection import generator

POWERS = (-100, -20, 20, 100)


def main() -> None:
    rounding.install()
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=132)
    split_k = families.load(Path(sys.argv[1]))
    rng = generator(5)
    pages = 24

    def cache(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=rng).to(torch.float8_e4m3fn)

    kc, vc, ikc = cache(pages, 1, 128, 128), cache(pages, 1, 128, 128), cache(pages, 128, 128)
    q, iq = (torch.randn((1, heads, 128), generator=rng).bfloat16() for heads in (16, 1))
    table = torch.randperm(pages, generator=rng)[None].int()
    lens = torch.tensor([pages * 128 - 50], dtype=torch.int32)

    def call(q_power: int = 0, iq_power: int = 0) -> torch.Tensor:
        scales = torch.tensor([2.0**-q_power, 1.0])
        out = torch.full((1, 16, 128), float("nan"), dtype=torch.bfloat16)
        split_k.msa_decode_e4m3(q * 2.0**q_power, kc, vc, iq * 2.0**iq_power, ikc, scales, table, lens, out)
        return out

    plain = call()
    assert plain.isfinite().all()
    same = {f"q {n}": call(q_power=n).equal(plain) for n in POWERS}
    same |= {f"iq {n}": call(iq_power=n).equal(plain) for n in POWERS}
    print(json.dumps(same))


if __name__ == "__main__":
    main()
