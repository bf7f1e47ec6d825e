"""What bench/msa.py runs and times: families of the repository, torch's dense attention, prefill and decode."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msa_clock import HERE, Clock, family

from kopt.machine.products import Product
from kopt.msa import HEAD_DIM, arithmetic

CHUNK = 4096
"""Queries at the end of a context."""
OUTLIER = "outlier"
"""A regime of values, not of lists."""
CALLS = 8
"""Of decode in a graph, at least."""
COLD = 512e6
"""Bytes that are read between two reads of the same, where there is room: several L2s."""
ONE_SHOT = 262144
"""Tokens up to which a prompt is prefilled in one call."""
M3, M2 = (64, 4), (48, 8)
STAGES = ("index", "select", "invert", "attend", "combine", "merge")
MEASURED = "measured"
REHEARSED = "not measured"


@dataclass
class Row:
    """One line of the table: what ran, on what, and how long."""

    what: str
    length: int
    regime: str = ""
    heads: str = "64/4"
    us: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    tflops: float | None = None
    percent: float | None = None
    gbs: float | None = None
    modelled_us: float | None = None
    evidence: str = REHEARSED


@dataclass
class Bench:
    """Everything that the measurements share."""

    clock: Clock
    target: Product
    device: str
    index: str
    attends: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    added: Callable[[], object] = lambda: None
    """Called after every row."""

    def add(self, row: Row, flops: float, moved: float = 0.0) -> Row:
        row.evidence = MEASURED if self.clock.gpu and row.us is not None else REHEARSED
        if row.us is not None:
            row.tflops = flops / row.us * 1e-6
            row.gbs = moved / row.us * 1e-3 if moved else None
            peak = self.target.peak("bf16")
            row.percent = 100 * row.tflops / peak if peak else None
        self.rows.append(row)
        self.added()
        print(line(row), flush=True)
        return row

    def find(self, what: str, length: int, regime: str = "", heads: str = "64/4") -> float | None:
        """Microseconds of the fastest row whose name begins with these words."""
        return min(
            (r.us for r in self.rows if f"{r.what} ".startswith(f"{what} ") and r.us
             and (r.length, r.regime, r.heads) == (length, regime, heads)),
            default=None,
        )  # fmt: skip


def line(row: Row) -> str:
    def number(value: float | None, form: str) -> str:
        return format(value, form) if value is not None else "-"

    stages = " ".join(f"{name} {row.stages[name]:.1f}" for name in STAGES if name in row.stages)
    time_ = number(row.us, ".1f") if row.evidence == MEASURED else REHEARSED
    cells = (
        f"{row.what:24} {row.length:>8} {row.regime:10} {row.heads:6} {time_:>12} us",
        f"{number(row.tflops, '.1f'):>7} TFLOPS {number(row.percent, '.1f'):>5} % {number(row.gbs, '.0f'):>6} GB/s",
        f"modelled {number(row.modelled_us, '.0f'):>6} us  {stages}",
    )
    return "  ".join(cells).rstrip()


# ------------------------------------------------------------------------------------------------------------ prefill


def tensors(bench: Bench, tokens: int, keys: int, heads: tuple[int, int]) -> dict[str, Any]:
    import torch

    from kopt.msa import selection

    rng = selection.generator(0, "bench/msa.py", device=bench.device)
    q, k, v = selection.normal_qkv(tokens, keys, *heads, rng)
    made = {"q": q, "k": k, "v": v, "out": torch.empty_like(q)}
    for name, sizes in (("iq", (tokens, heads[1], HEAD_DIM)), ("ik", (keys, HEAD_DIM))):
        made[name] = torch.randn(sizes, generator=rng, device=bench.device).bfloat16()
    for name, size in (("cu_q", tokens), ("cu_k", keys)):
        made[name] = torch.tensor([0, size], dtype=torch.int32, device=bench.device)
    return made


def prefill(
    bench: Bench, length: int, regimes: tuple[str, ...], heads: tuple[int, int], most: int, one_shot: int
) -> None:
    """Index, attention by regime and family, both end to end, and dense attention, at one length: for the last `most`
    queries, and up to `one_shot` for all of them."""
    tokens = length if length <= one_shot else min(most, length)
    for asked in dict.fromkeys((min(most, length), tokens)):
        t = tensors(bench, asked, length, heads)
        indexed(bench, t, heads)
        for name in bench.attends:
            for regime in regimes:
                attended(bench, t, heads, name, regime)
            both(bench, t, heads, name)
        del t
        for dense_heads in dict.fromkeys((heads, M2 if heads == M3 else heads)):
            dense(bench, asked, length, dense_heads, "dense" if asked == length else "dense chunk")


def chunk(bench: Bench, length: int, asked: int, heads: tuple[int, int], regimes: Sequence[str]) -> None:
    """Index, and attention by regime and family, for the last queries of a context."""
    t = tensors(bench, min(asked, length), length, heads)
    if bench.find(f"index chunk {bench.index}", length, heads=f"{heads[0]}/{heads[1]}") is None:
        indexed(bench, t, heads)
    for name in bench.attends:
        for regime in regimes:
            attended(bench, t, heads, name, regime)


def indexed(bench: Bench, t: dict[str, Any], heads: tuple[int, int]) -> None:
    """The lists of all queries, from codes."""
    import torch

    (asked, length), label, of = _sizes(t, heads)
    ids = torch.empty((heads[1], asked, 16), dtype=torch.int32, device=bench.device)
    index = family("msa_index", bench.index, bench.clock)

    def call() -> None:
        index.msa_index(t["iq"], t["ik"], t["cu_q"], t["cu_k"], ids)

    row = Row(f"index{label} {bench.index}", length, heads=of, us=bench.clock.graph(call))
    row.stages = bench.clock.stages(call)
    bench.add(row, arithmetic.index_flops(arithmetic.causal_pairs(asked, length), heads[1]),
              _codes(asked, length, heads) + _listed(asked, heads))  # fmt: skip


def attended(bench: Bench, t: dict[str, Any], heads: tuple[int, int], name: str, regime: str) -> None:
    """Attention of one family over the lists of one regime; OUTLIER is random lists and logits of 1e4."""
    from kopt.msa import selection

    (asked, length), label, of = _sizes(t, heads)
    drawn = "random" if regime == OUTLIER else regime
    rng = selection.generator(0, regime, device=bench.device)
    lists = selection.select(drawn, t["cu_q"], t["cu_k"], heads[1], rng)
    q, k = t["q"], t["k"]
    if regime == OUTLIER:
        q, k = q.clone(), k.clone()
        selection.outlier_qk(q, k, rng)
    attend = family("msa_attend", name, bench.clock)

    def call() -> None:
        attend.msa_attend(q, k, t["v"], lists, t["cu_q"], t["cu_k"], t["out"])

    row = Row(f"attend{label} {name}", length, regime, of, us=bench.clock.graph(call))
    row.stages = bench.clock.stages(call)
    read, written = arithmetic.attend_bytes(drawn, [asked], [length], *heads)
    bench.add(row, arithmetic.attend_flops(arithmetic.regime_pairs(drawn, asked, length), heads[0]), read + written)


def both(bench: Bench, t: dict[str, Any], heads: tuple[int, int], name: str) -> None:
    """Index and attention in one call. What is random in the index keys is random in the lists."""
    (asked, length), label, of = _sizes(t, heads)
    whole = family("msa_prefill", "plain" if name == "q_outer" else name, bench.clock)

    def call() -> None:
        whole.msa_prefill(*(t[given] for given in ("q", "k", "v", "iq", "ik", "cu_q", "cu_k", "out")))

    chosen = arithmetic.selected_pairs(asked, length)
    flops = arithmetic.index_flops(arithmetic.causal_pairs(asked, length), heads[1])
    flops += arithmetic.attend_flops(chosen, heads[0])
    read, written = arithmetic.attend_bytes("random", [asked], [length], *heads)
    row = Row(f"prefill{label} {name}", length, heads=of, us=bench.clock.graph(call))
    row.stages = bench.clock.stages(call)
    bench.add(row, flops, read + written - _listed(asked, heads) + _codes(asked, length, heads))


def _sizes(t: dict[str, Any], heads: tuple[int, int]) -> tuple[tuple[int, int], str, str]:
    """(queries, keys), what a row says where these differ, and the heads."""
    asked, length = t["q"].shape[0], t["k"].shape[0]
    return (asked, length), "" if asked == length else " chunk", f"{heads[0]}/{heads[1]}"


def _codes(asked: int, length: int, heads: tuple[int, int]) -> float:
    return 2.0 * HEAD_DIM * (asked * heads[1] + length)


def _listed(asked: int, heads: tuple[int, int]) -> float:
    return 4.0 * heads[1] * asked * 16


def dense(bench: Bench, tokens: int, keys: int, heads: tuple[int, int], what: str) -> None:
    """torch's SDPA, causal, queries at the end: the fastest of its backends that takes the problem."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    def made(count: int, rows: int) -> Any:
        return torch.randn((1, count, rows, HEAD_DIM), device=bench.device, dtype=torch.bfloat16)

    q, k, v = made(heads[0], tokens), made(heads[1], keys), made(heads[1], keys)
    flops = arithmetic.attend_flops(arithmetic.causal_pairs(tokens, keys), heads[0])
    backends = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION) if bench.clock.gpu else (SDPBackend.MATH,)
    best, name = None, ""
    for backend in backends:
        for shared in (True, False):
            more = {} if shared else {"k": k.repeat_interleave(heads[0] // heads[1], 1),
                                      "v": v.repeat_interleave(heads[0] // heads[1], 1)}  # fmt: skip
            kk, vv = more.get("k", k), more.get("v", v)

            def attended(kk: Any = kk, vv: Any = vv, shared: bool = shared, backend: Any = backend) -> None:
                # A chunk needs its mask at the lower right; one query, as in decode, sees everything.
                mask = causal_lower_right(tokens, keys) if 1 < tokens < keys else None
                with sdpa_kernel([backend]):
                    sdpa(q, kk, vv, attn_mask=mask, is_causal=tokens == keys, enable_gqa=shared)

            try:
                us = bench.clock.call(attended, 10)
            except (RuntimeError, ValueError) as error:  # this backend does not take it
                print(
                    f"  {what} {keys} {backend.name} gqa={shared}: {str(error).splitlines()[0][:90]}", file=sys.stderr
                )
                continue
            if best is None or (us is not None and us < best):
                best, name = us, backend.name.split("_")[0].lower()
            break
    moved = 4.0 * HEAD_DIM * (tokens * heads[0] + keys * heads[1])
    bench.add(Row(f"{what} {name}", keys, heads=f"{heads[0]}/{heads[1]}", us=best), flops, moved)


# ------------------------------------------------------------------------------------------------------------- decode


def free() -> float:
    """Bytes that can be had on the GPU, with something to spare."""
    import torch

    torch.cuda.empty_cache()
    return 0.95 * torch.cuda.mem_get_info()[0]


def copies(read: float, held: float, room: float) -> int:
    """Of the `held` bytes of a call's inputs, of which it reads `read`: as many as let turns over them find nothing in
    the L2, or as there is room for; 0 where there is none."""
    return int(min(room // held, math.ceil(COLD / read)))


def decode(bench: Bench, length: int, batch: int, heads: tuple[int, int]) -> None:
    """One token for each of `batch` requests, in CUDA graphs of such calls; dense attention over caches as long."""
    import torch

    width = -(-length // 128)
    for task, cache in (("msa_decode", torch.bfloat16), ("msa_decode_e4m3", torch.float8_e4m3fn)):
        folder = HERE / "kernels" / task
        if not (folder / "split_k.py").is_file():
            print(f"  {task}: {(folder / 'split_k.py').relative_to(HERE)} does not exist", file=sys.stderr)
            continue
        from kopt import content
        from kopt.evaluate import hooks

        declared = content.load_task(task, HERE)
        known = {"B": batch, "HQ": heads[0], "HKV": heads[1], "PAGES": batch * width, "WIDTH": width}
        dims = {name: known[name] for name in declared.dims}
        module = family(task, "split_k", bench.clock)
        size = 2 if cache is torch.bfloat16 else 1
        listed = min(length, 2048)
        moved = 1.0 * size * batch * HEAD_DIM * (length + 2 * heads[1] * listed)
        held = 1.0 * size * batch * HEAD_DIM * (length + 2 * heads[1] * length)
        count = copies(moved, held, free()) if bench.clock.gpu else 1
        if not count:
            print(f"  {task} b{batch} {length}: its cache does not fit", file=sys.stderr)
            continue
        family_of = declared.timed_family(declared.timing[0])
        calls = []
        for seed in range(count):
            inputs = hooks.load(declared).make_inputs(dims, family_of, seed, bench.device)
            given = [inputs[t.name] for t in declared.inputs] + [
                torch.empty(t.sizes(dims), dtype=getattr(torch, t.dtype), device=bench.device) for t in declared.outputs
            ]
            calls.append(partial(getattr(module, task), *given))
        flops = batch * (arithmetic.index_flops(length, heads[1]) + arithmetic.attend_flops(listed, heads[0]))
        us = bench.clock.graph(*calls, at_least=CALLS)
        row = Row(f"{task} b{batch}", length, heads=f"{heads[0]}/{heads[1]}", us=us)
        row.stages = bench.clock.stages(calls[0])
        bench.add(row, flops, moved)
        del inputs, given, calls
    for of in (heads, M2) if heads == M3 else (heads,):
        size = 4.0 * of[1] * HEAD_DIM * length * batch
        count = copies(size, size, free()) if bench.clock.gpu else 1
        if not count:
            print(f"  dense decode b{batch} {length} {of}: its cache does not fit", file=sys.stderr)
            continue
        from torch.nn.functional import scaled_dot_product_attention as sdpa

        calls = []
        for _ in range(count):
            q = torch.randn((batch, of[0], 1, HEAD_DIM), device=bench.device, dtype=torch.bfloat16)
            sizes = (batch, of[1], length, HEAD_DIM)
            k, v = (torch.randn(sizes, device=bench.device, dtype=torch.bfloat16) for _ in "kv")
            calls.append(partial(sdpa, q, k, v, enable_gqa=True))
        us = bench.clock.graph(*calls, at_least=CALLS)
        flops = batch * arithmetic.attend_flops(length, of[0])
        bench.add(Row(f"dense decode b{batch}", length, heads=f"{of[0]}/{of[1]}", us=us), flops, size)
        del q, k, v, calls
