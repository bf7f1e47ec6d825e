"""What counting says of the loop orders of MSA attention agrees with the byte arithmetic of the paper, by regime.

L2 binds Q-outer and union tiles; what KV-outer writes and reads again, memory binds. Modelled times at full size are
in kernels/msa_attend/README.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kopt.msa import arithmetic

ROOT = Path(__file__).parents[2]
TOKENS, KEYS, HEADS, KV = 1024, 65536, 16, 1
TILE = 8
PARAMETERS: dict[str, dict[str, int]] = {"q_outer": {}, "union": {"ROWS": TILE * HEADS // KV}, "kv_outer": {}}
L2, HBM = 7.9e12, 4.8e12
"""Bytes a second: what the best public Q-outer kernel moves on an H200, and its data sheet."""
REGIMES = ("random", "m3_like")

SCRIPT = """
import json, os, sys, tempfile
from dataclasses import asdict
from pathlib import Path
os.environ["TRITON_INTERPRET"] = "1"
from kopt.evaluate.worker import count
from kopt.machine.products import product
from kopt.msa import selection

file, parameters, regimes, tokens, keys, heads, kv = json.loads(sys.argv[1])
folder = Path(tempfile.mkdtemp())
(folder / "candidate.py").write_text(Path(file).read_text())
cu_q, cu_k = selection.offsets([tokens]), selection.offsets([keys])
sizes = [("q", [tokens, heads, 128]), ("k", [keys, kv, 128]), ("v", [keys, kv, 128]), ("ids", [kv, tokens, 16]),
         ("cu_q", [2]), ("cu_k", [2]), ("out", [tokens, heads, 128])]
shapes, lists = [], {}
for regime in regimes:
    ids = selection.select(regime, cu_q, cu_k, kv, selection.generator(0, regime))
    lists[regime] = ids.tolist()
    integers = {"ids": ids, "cu_q": cu_q, "cu_k": cu_k}
    for name, tensor in integers.items():
        (folder / f"{regime}.{name}").write_bytes(tensor.numpy().tobytes())
    tensors = [{"name": n, "dtype": "int32" if n in integers else "bfloat16", "sizes": s} for n, s in sizes]
    shapes.append({"name": regime, "tensors": tensors, "values": {n: f"{regime}.{n}" for n in integers}})
payload = {"file": "candidate.py", "entry": "msa_attend", "parameters": parameters, "target": asdict(product("h200")),
           "kernels": {}, "seconds": 4.0, "wall": 1e9, "shapes": shapes}
print(json.dumps({"counted": count.run(payload, folder, lambda question: {})["shapes"], "lists": lists}))
"""


@cache
def counted(family: str) -> Any:
    file = str(ROOT / "kernels" / "msa_attend" / f"{family}.py")
    given = json.dumps([file, PARAMETERS[family], REGIMES, TOKENS, KEYS, HEADS, KV])
    ran = subprocess.run([sys.executable, "-c", SCRIPT, given], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def moved(family: str, regime: str) -> float:
    """Bytes between L2 and the SMs, as counted."""
    total = 0.0
    for launch in counted(family)["counted"][regime]["launches"]:
        routes = (t for loop in launch["counts"]["loops"] for t in loop["traffic"])
        total += launch["counts"]["programs"] * sum(32 * t["sectors"] for t in routes)
    return total


def union(regime: str) -> float:
    """Blocks that neighbours list together, on average."""
    (lists,) = counted("union")["lists"][regime]
    tiles = [{b for row in lists[at : at + TILE] for b in row if b >= 0} for at in range(0, TOKENS, TILE)]
    return sum(map(len, tiles)) / len(tiles)


def expected(family: str, regime: str) -> float:
    if family == "q_outer":
        return arithmetic.q_outer_bytes(TOKENS, HEADS, KV)
    if family == "union":
        return arithmetic.union_bytes(TOKENS, HEADS, KV, TILE, union(regime))
    keys = 128.0 * len({b for row in counted("kv_outer")["lists"][regime][0] for b in row if b >= 0})
    return arithmetic.kv_outer_bytes(TOKENS, int(keys), HEADS, KV)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("family", PARAMETERS)
def test_counted_bytes_are_those_of_the_arithmetic(family: str, regime: str) -> None:
    assert moved(family, regime) == pytest.approx(expected(family, regime), rel=0.12)


def test_the_order_by_regime_is_that_of_the_arithmetic() -> None:
    def order(bytes_of: Any, regime: str) -> list[str]:
        return sorted(PARAMETERS, key=lambda family: bytes_of(family, regime) / (HBM if family == "kv_outer" else L2))

    for regime in REGIMES:
        assert order(moved, regime) == order(expected, regime)
    assert order(moved, "random")[0] == "kv_outer"
    assert order(moved, "m3_like")[0] == "union"
    assert order(moved, "m3_like")[-1] == "q_outer"
