"""Triton's interpreter, mended, computes what GPUs compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch, triton, triton.language as tl
from kopt.evaluate.worker import rounding

rounding.install()

@triton.jit
def product(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    rows = tl.arange(0, N)
    at = rows[:, None] * N + rows[None, :]
    tl.store(out_ptr + at, tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at).T))

for dtype in (torch.bfloat16, torch.float16):
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn((16, 16), generator=rng).to(dtype) for _ in range(2))
    out = torch.zeros((16, 16))
    product[(1,)](a, b, out, 16)
    print(float((out.double() - a.double() @ b.double().T).abs().max()))

@triton.jit
def widened(a_ptr, out_ptr):
    at = tl.arange(0, 256)
    tl.store(out_ptr + at, tl.load(a_ptr + at).to(out_ptr.dtype.element_ty))

for narrow in (torch.float8_e4m3fn, torch.float8_e5m2):
    for wide in (torch.bfloat16, torch.float16, torch.float32):
        a = torch.arange(256).to(torch.uint8).view(narrow)
        out = torch.zeros(256, dtype=wide)
        widened[(1,)](a, out)
        print(float(not torch.equal(out.nan_to_num(nan=1e30), a.to(wide).nan_to_num(nan=1e30))))
"""


def test_a_dot_of_narrow_floats_is_their_product_and_widening_keeps_every_value(tmp_path: Path) -> None:
    file = tmp_path / "product.py"  # Triton reads a kernel's source from its file
    file.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, file], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    errors = [float(line) for line in ran.stdout.split()]
    assert len(errors) == 8
    assert max(errors) < 1e-5
