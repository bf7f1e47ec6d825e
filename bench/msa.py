"""MSA on a GPU, by stages and end to end, against dense attention; the claims of its release, and our goals.

    python bench/msa.py [--lengths 8192,131072] [--regimes random,m3_like] [--json FILE] [--no-model]

On a GPU, per length: the time of index, selection, inverting, attention and combining (CUDA events around each launch)
and of all of it (events around replays of a CUDA graph, L2 flushed before each), its FLOPs by the model of
kopt.msa.arithmetic, TFLOPS, percent of the data sheet's bf16 peak, GB/s of compulsory bytes; dense causal attention by
torch's SDPA (the fastest of its cuDNN and flash kernels, with its own TFLOPS) at the heads of MiniMax M2 (48/8) and M3
(64/4); decode, in CUDA graphs of calls that take turns over inputs too large for the L2. Lengths above 256k are a chunk
of 4,096 queries at the end of the context; at 128k, also the heads of one GPU of four and of eight, lists of fewer
blocks, and logits of 1e4.

Without a GPU the same code runs on tiny sizes in Triton's interpreter: a rehearsal, whose table has no times. What is
known without one is printed in either case: the modelled time of attention (kopt's prediction for the H200) and the
arithmetic behind the claim that has no time. bench/data/msa-h200.json has what it wrote on an H200, with the
options of each part and what was different then.

Kernels are the families of kernels/msa_*/ with their defaults; --index and --attend name others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from msa_clock import HERE, Clock, rehearse
from msa_stages import CHUNK, M3, MEASURED, ONE_SHOT, OUTLIER, REHEARSED, Bench, Row, chunk, decode, line, prefill

from kopt.machine.detect import detect
from kopt.machine.fingerprint import fingerprint
from kopt.machine.products import product
from kopt.msa import arithmetic

SHARDED = 131072
"""The length for other heads, and for regimes that decide nothing."""
SHARDS = (16, 1), (8, 1)
"""Heads of one GPU of four and of eight."""
LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)


@dataclass
class Goal:
    """A claim or a target, and whether it is met. `holds` is None where nothing was measured."""

    name: str
    asked: str
    got: str
    holds: bool | None
    basis: str = MEASURED


def goals(bench: Bench) -> list[Goal]:
    """The claims of the release and our targets, from the rows; without rows they hold neither way."""
    million, at = 1 << 20, 131072

    def ratio(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    def judged(name: str, limit: float, value: float | None, below: bool = False) -> Goal:
        unit = " ms" if below else "x"
        holds = None if value is None else (value <= limit if below else value >= limit)
        got = REHEARSED if value is None else f"{value:.2f}{unit}"
        return Goal(name, f"{'<' if below else '>='} {limit:g}{unit}", got, holds)

    alone = "attention of 4,096 queries at 128k"
    m3_like, random = (bench.find("attend chunk", at, regime) for regime in ("m3_like", "random"))
    one_by_one = bench.find("attend chunk q_outer", at, "random")
    whole = "{}/{}".format(*M3)
    index = next(
        (r for r in bench.rows if r.what.startswith("index chunk") and (r.length, r.heads) == (at, whole)), None
    )
    million_dense = bench.find("dense chunk", million, heads="48/8")
    found = [
        # The release compares with FSA and flash-moba, which are no part of this repository.
        judged(f"claim: {alone}, random lists, over q_outer.py", 4.0, ratio(one_by_one, random)),
        judged("claim and goal: prefill at 1M, over dense at M2's heads", 9.0,
               ratio(million_dense, bench.find("prefill chunk", million))),
        judged(f"goal: {alone}, m3_like", 1.2, _ms(m3_like), below=True),
        judged(f"goal: {alone}, random", 1.6, _ms(random), below=True),
        judged("goal: index scores, 4,096 queries at 128k", 1.3, _ms(index and index.stages.get("index")), below=True),
        judged("goal: index with selection, the same", 1.5, _ms(index and index.us), below=True),
    ]  # fmt: skip
    for batch, task, limit, name in (
        (16, "msa_decode", 15.0, "claim: bf16 (15.75x is what the bytes allow)"),
        (8, "msa_decode", 14.0, "goal: bf16"),
        (16, "msa_decode", 14.0, "goal: bf16"),
        (1, "msa_decode", 11.0, "goal: bf16"),
        (1, "msa_decode_e4m3", 15.0, "goal: e4m3"),
        (8, "msa_decode_e4m3", 15.0, "goal: e4m3"),
        (16, "msa_decode_e4m3", 15.0, "goal: e4m3"),
    ):
        over = bench.find(f"dense decode b{batch}", million, heads="48/8")
        gain = ratio(over, bench.find(f"{task} b{batch}", million))
        found.append(judged(f"{name}, decode at 1M, batch {batch}, over dense at M2's heads", limit, gain))
    pairs = arithmetic.causal_pairs(million, million)
    layer = arithmetic.index_flops(pairs, 4) + arithmetic.attend_flops(arithmetic.selected_pairs(million, million), 64)
    share = arithmetic.attend_flops(pairs, 48) / layer
    found.append(
        Goal(
            "claim: 1/20 of the compute at 1M, an M2 layer over an M3 layer",
            ">= 20x",
            f"{share:.1f}x",
            share >= 20,
            "arithmetic",
        )
    )
    return found


def _ms(us: float | None) -> float | None:
    return us / 1e3 if us else None


def model(attends: tuple[str, ...]) -> Mapping[tuple[str, int, str], float]:
    """Modelled microseconds on an H200 by family, length and regime, for msa_attend's own timing shapes at 64/4."""
    from kopt import content
    from kopt.evaluate.evaluator import Evaluator
    from kopt.records import Submission, digest

    task = content.load_task("msa_attend", HERE)
    shapes = [shape for shape in task.timing if shape.dims["HQ"] == M3[0]]
    found = {}
    with Evaluator(task, target="h200", shapes=shapes) as evaluator:
        for name in attends:
            text = (HERE / "kernels" / "msa_attend" / f"{name}.py").read_text(encoding="utf-8")
            submission = Submission(n=1, sha=digest(text, {}), origin="user")
            trial = evaluator.try_parameters(submission, text, {}, 1)
            for prediction in trial.predictions:
                shape = next(s for s in shapes if s.name == prediction.shape)
                found[name, shape.dims["S"], shape.inputs[0]] = prediction.us
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", default="", help="comma-separated; default: 2k to 1M on a GPU")
    parser.add_argument("--regimes", default="random,m3_like,hot_block")
    parser.add_argument("--batches", default="1,8,16,32,128")
    parser.add_argument("--index", default="fused")
    parser.add_argument("--attend", default="q_outer,union,kv_outer,adaptive")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    parser.add_argument("--no-model", action="store_true", help="leave out the modelled times: minutes of one core")
    options = parser.parse_args()
    gpu = next((gpu for gpu in detect().visible() if gpu.product is not None), None)
    if gpu is None:
        rehearse()
    target = gpu.product if gpu is not None and gpu.product is not None else product("h200")
    attends = tuple(options.attend.split(","))
    bench = Bench(Clock(gpu is not None), target, "cuda" if gpu is not None else "cpu", options.index, attends)
    machine = fingerprint()

    def write(found: list[Goal]) -> None:
        """After every row: what was measured outlives a machine that goes away."""
        if options.json:
            options.json.write_text(
                json.dumps({"gpu": gpu.name if gpu is not None else None, "machine": machine,
                            "rows": [asdict(r) for r in bench.rows], "goals": [asdict(g) for g in found]}, indent=1)
                + "\n"
            )  # fmt: skip

    bench.added = lambda: write([])
    lengths = tuple(int(n) for n in options.lengths.split(",") if n) or (LENGTHS if gpu is not None else (300,))
    regimes = tuple(options.regimes.split(","))
    where = gpu.name if gpu is not None else "no GPU: a rehearsal on tiny sizes, nothing is measured"
    print(f"{where}; {time.strftime('%Y-%m-%d')}")
    modelled = {} if options.no_model else model(attends)
    for length in lengths:
        prefill(bench, length, regimes, *((M3, CHUNK, ONE_SHOT) if gpu is not None else ((8, 1), 3, 0)))
    for length in lengths:
        if gpu is None:
            chunk(bench, length, 3, (8, 1), ("short", OUTLIER))
            chunk(bench, length, 3, SHARDS[0], ("random",))
        elif length == SHARDED:
            chunk(bench, length, CHUNK, M3, ("short", OUTLIER))
            for of in SHARDS:
                chunk(bench, length, CHUNK, of, ("random", "m3_like"))
                decode(bench, length, 32, of)
        for batch in (int(n) for n in options.batches.split(",")) if gpu is not None else (2,):
            decode(bench, length, batch, M3 if gpu is not None else (8, 1))
    for (name, length, regime), us in modelled.items():
        row = next(
            (r for r in bench.rows if (r.what, r.length, r.regime) == (f"attend chunk {name}", length, regime)), None
        )
        if row is None:
            bench.rows.append(row := Row(f"attend chunk {name}", length, regime))
        row.modelled_us = us
        print(line(row))
    found = goals(bench)
    for goal in found:
        verdict = {True: f"holds, {goal.basis}", False: f"falls short, {goal.basis}", None: REHEARSED}[goal.holds]
        print(f"{verdict:21} {goal.asked:>9} {goal.got:>13}  {goal.name}")
    if gpu is None:
        print("rehearsed launches: " + ", ".join(f"{name} {n}" for name, n in sorted(bench.clock.launches.items())))
    write(found)


if __name__ == "__main__":
    main()
