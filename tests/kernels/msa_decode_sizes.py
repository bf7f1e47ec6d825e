"""Run in Triton's interpreter: kernels/msa_decode_e4m3/split_k.py, the argument, on queries far beyond fp16.

Prints a JSON object: by power of two, for index queries and for queries (whose logits the scale of keys brings back),
whether results are bit for bit those of queries of about one. Below fp16 and beyond it a power of two changes nothing
else. Then, whether queries of 0 weigh all tokens alike, as keys of 0 do; and whether a NaN or infinity in a query makes
a NaN of every element of its head and of no other.
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

    def call(q: torch.Tensor = q, iq: torch.Tensor = iq, kc: torch.Tensor = kc, scale: float = 1.0) -> torch.Tensor:
        out = torch.full((1, 16, 128), 7.0, dtype=torch.bfloat16)
        split_k.msa_decode_e4m3(q, kc, vc, iq, ikc, torch.tensor([scale, 1.0]), table, lens, out)
        return out

    def shows(value: float) -> bool:
        odd = q.clone()
        odd[0, 3, 17] = value
        out, others = call(odd), torch.arange(16) != 3
        return bool(out[0, 3].isnan().all()) and out[:, others].equal(plain[:, others])

    plain = call()
    assert plain.isfinite().all()
    same = {f"q {n}": call(q * 2.0**n, scale=2.0**-n).equal(plain) for n in POWERS}
    same |= {f"iq {n}": call(iq=iq * 2.0**n).equal(plain) for n in POWERS}
    same |= {"q of 0": call(0 * q).equal(call(kc=torch.zeros_like(kc)))}
    same |= {f"{value} in q": shows(value) for value in (float("nan"), float("inf"), -float("inf"))}
    print(json.dumps(same))


if __name__ == "__main__":
    main()
