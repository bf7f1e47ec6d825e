"""The stage in its worker processes: counts follow what a kernel does, not what it is called."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kopt import content
from kopt.evaluate.predict.counting import Counting
from kopt.evaluate.predict.stage import Predict
from kopt.evaluate.stage import Case
from kopt.evaluate.steering import Steering
from kopt.evaluate.tensors import Layout
from kopt.evaluate.workers import Reply, Workers
from kopt.machine.products import product
from kopt.records import Outcome, Submission, digest

ROOT = Path(__file__).resolve().parents[3]
OTHERS = Path(__file__).with_name("kernels.py").read_text()
TASK = content.load_task("fp8_gemm", ROOT)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as made:
        made.warm("interpret")
        yield made


@pytest.fixture(scope="module")
def stage(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    return Predict(workers, tmp_path_factory.mktemp("store"))


def family(name: str) -> str:
    return (ROOT / "kernels" / "fp8_gemm" / f"{name}.py").read_text()


def run(stage: Predict, source: str, target: str = "h200", **parameters: Any) -> Any:
    submission = Submission(n=1, sha=digest(source), origin="test")
    return stage.run(Case(TASK, submission, source, product(target), parameters), {})


def counted(stage: Predict, source: str, shape: str = "8k-cube", target: str = "h200", **parameters: Any) -> Any:
    result = run(stage, source, target, **parameters)
    assert result.outcome is Outcome.PASSED, result.findings
    return result.artifacts["counted"][shape]


def count(
    workers: Workers,
    folder: Path,
    entry: str,
    tensors: list[Layout],
    target: str = "h200",
    **values: bytes,
) -> Reply:
    """The counting job on a kernel that belongs to no task."""
    (folder / "candidate.py").write_text(OTHERS)
    for name, data in values.items():
        (folder / f"{name}.values").write_bytes(data)
    payload = {
        "file": "candidate.py", "entry": entry, "parameters": {}, "target": asdict(product(target)), "kernels": {},
        "seconds": 4.0,
    }  # fmt: skip
    shape = {"name": "s", "tensors": tensors, "values": {n: f"{n}.values" for n in values}}
    reply = workers.run(
        "interpret", "kopt.evaluate.worker.count:run", payload, folder=folder, deadline=60,
        on_ask=lambda q: {"shape": shape if q.get("next") == 0 else None},
    )  # fmt: skip
    assert reply.ok, reply.error
    return reply


def launches(reply: Reply) -> list[Any]:
    answer = reply.value["shapes"]["s"]
    assert "launches" in answer, answer
    return [launch["counts"] | {"name": launch["name"], "grid": launch["grid"]} for launch in answer["launches"]]


def traffic(counts: Any, buffer: str, direction: str = "load") -> float:
    """Bytes of one buffer over the whole launch."""
    found = [t for loop in counts["loops"] for t in loop["traffic"]]
    return counts["programs"] * sum(t["bytes"] for t in found if (t["buffer"], t["direction"]) == (buffer, direction))


def tensor(name: str, dtype: str, *sizes: int) -> Layout:
    return {"name": name, "dtype": dtype, "sizes": list(sizes)}


def test_a_stand_in_takes_the_place_of_integers_found_from_floats(workers: Workers, tmp_path: Path) -> None:
    tensors = [tensor("x", "float32", 8, 16), tensor("out", "float32", 8, 16)]
    counts = struct.pack("8i", 3, 0, 1, 0, 2, 0, 0, 1)
    *_, found = launches(count(workers, tmp_path, "bins_of_floats", tensors, **{"stand-in.int32.8": counts}))
    assert traffic(found, "x") == (3 + 1 + 2 + 1) * 16 * 4
    assert not any("depends on data" in warning for warning in found["warnings"])


def slow(seconds: float) -> str:
    """A candidate whose host function takes its time."""
    return family("tma").replace("    grid = (", f"    __import__('time').sleep({seconds})\n    grid = (", 1)


def counting(workers: Workers, store: Path, source: str) -> Counting:
    case = Case(TASK, Submission(n=1, sha=digest(source), origin="test"), source, product("h200"), {})
    return Counting(workers, store, Steering(workers, store), case, {}, lambda key: None)


def test_no_shape_is_begun_when_the_time_is_spent(workers: Workers, tmp_path: Path) -> None:
    ((names, reply),) = counting(workers, tmp_path, family("tma")).run(60.0, 0.0)
    assert reply.ok
    assert not names


@pytest.mark.parametrize(("cores", "several"), [(1, False), (4, True)])
def test_slow_shapes_are_counted_side_by_side_where_processors_are_idle(
    tmp_path: Path, cores: int, several: bool
) -> None:
    with Workers(cores=cores) as some:
        found = counting(some, tmp_path, slow(2.0)).run(60.0, 60.0)
    assert all(reply.ok for _, reply in found)
    assert sorted(name for names, _ in found for name in names) == sorted(shape.name for shape in TASK.timing)
    assert (sum(bool(names) for names, _ in found) > 1) == several


def test_a_call_that_leaves_tiles_out_fails_and_has_no_modelled_time(stage: Predict) -> None:
    lazy = family("tma").replace("    tma_kernel[grid]", "    grid = (grid[0] // 2,)\n    tma_kernel[grid]", 1)
    assert lazy != family("tma")
    result = run(stage, lazy)
    assert result.outcome is Outcome.FAILED
    assert {f.rule for f in result.findings} == {"predict.work"}
    assert not result.artifacts["predictions"]


def test_a_process_that_one_shape_ends_costs_no_later_shape(stage: Predict) -> None:
    cubes = [shape.name for shape in TASK.timing if len({*shape.dims.values()}) == 1]
    source = family("tma").replace("    grid = (", "    M == N == K and __import__('os')._exit(1)\n    grid = (", 1)
    result = run(stage, source)
    assert [f.shape for f in result.findings] == cubes
    assert all("exited with status 1" in f.message for f in result.findings)
    assert set(result.artifacts["counted"]) == {shape.name for shape in TASK.timing} - set(cubes)


FORGER = """
import gc

AMOUNTS = ("requests", "bytes", "sectors", "lines")
MMA = {{"a": "fp8e4nv", "b": "fp8e4nv", "m": 128, "n": 128, "k": 128, "count": 1e12}}
STORE = {{"buffer": "out", "direction": "store", "feed": "pointer", **dict.fromkeys(AMOUNTS, 1e12)}}
LOOP = {{"lines": [0, 0], "executions": 1, "mma": [MMA], "traffic": [STORE]}}
COUNTS = {{"programs": 1, "sampled": 1, "loops": [LOOP], "stores": [], "warnings": []}}
LAUNCH = {{"name": "k", "grid": [1, 1, 1], "key": "", "buffers": {{}}, "counts": COUNTS}}

def fp8_gemm(a, b, scale_a, scale_b, out):
    for thing in gc.get_objects():
        if type(thing).__name__ == "Tape":
            thing.add({{"launch": {forged}}})
"""


@pytest.mark.parametrize(
    "forged",
    [
        "7",
        "{**LAUNCH, 'counts': ['abc']}",
        "{**LAUNCH, 'counts': {**COUNTS, 'programs': 10**400}}",
        "{**LAUNCH, 'counts': {**COUNTS, 'loops': []}}",
        "{**LAUNCH, 'counts': {**COUNTS, 'loops': [{**LOOP, 'executions': float('inf')}]}}",
        "{**LAUNCH, 'counts': {**COUNTS, 'loops': [{**LOOP, 'operations': {'float': float('nan')}}]}}",
        "{**LAUNCH, 'counts': {**COUNTS, 'loops': [{**LOOP, 'executions': 1e-300, 'operations': {'float': 1e15}}]}}",
        "{**LAUNCH, 'grid': [10**400, 1, 1]}",
        "{**LAUNCH, 'name': 'k' * 10**7}",
        "{'name': [[]], 'uncounted': {}}",
    ],
)
def test_counts_that_nothing_can_have_give_no_prediction_and_do_no_harm(stage: Predict, forged: str) -> None:
    result = run(stage, FORGER.format(forged=forged))
    assert not result.artifacts["predictions"]
    assert result.outcome in (Outcome.FAILED, Outcome.UNAVAILABLE)
    assert len(result.model_dump_json()) < 10_000


def test_a_candidate_that_ends_every_process_is_not_tried_for_ever(stage: Predict) -> None:
    result = run(stage, family("tma") + "\n__import__('os')._exit(1)\n")
    assert {f.shape for f in result.findings} == {shape.name for shape in TASK.timing}
    assert all("exited with status 1" in f.message for f in result.findings)


def test_a_renamed_family_counts_the_same(stage: Predict) -> None:
    source = family("tma")
    renamed = source.replace("tma_kernel", "mystery").replace("a_desc", "left").replace("CLASS = ", "KLASS = ")
    (one,), (other,) = counted(stage, source), counted(stage, renamed)
    assert other.name == "mystery"
    assert other.loops == one.loops


def test_half_the_depth_of_a_tile_is_twice_the_turns_and_the_same_bytes(stage: Predict) -> None:
    (deep,), (shallow,) = (counted(stage, family("tma"), BLOCK_K=k) for k in (128, 64))
    assert deep.flops == shallow.flops == 2 * 8192**3
    assert deep.moved("load") == shallow.moved("load")
    assert max(loop.executions for loop in shallow.loops) == 2 * max(loop.executions for loop in deep.loops)


def test_half_the_tile_reads_more(stage: Predict) -> None:
    (large,), (small,) = (counted(stage, family("tma"), BLOCK_N=n) for n in (256, 128))
    # 8192^3 in tiles of m by n loads 8192^3 (1/m + 1/n) bytes.
    assert small.moved("load") / large.moved("load") == pytest.approx(
        (1 / 128 + 1 / 128) / (1 / 128 + 1 / 256), rel=1e-3
    )


def test_grouping_tiles_is_seen_in_what_neighbours_share(stage: Predict) -> None:
    (grouped,), (plain,) = (counted(stage, family("tma"), GROUP_M=g) for g in (8, 1))
    shared = [{t.buffer: t.reuse for loop in c.loops for t in loop.traffic if t.moved > 1e5} for c in (grouped, plain)]
    assert shared[0]["a"] == pytest.approx(1 / 8, rel=0.1)
    # One row of tiles after the other: neighbours share A's rows and hardly any of B.
    assert shared[1]["a"] < 0.05
    assert shared[1]["b"] > 0.2


def test_persistent_programs_are_as_many_as_the_target_has_sms(stage: Predict) -> None:
    for target in ("h200", "h20"):
        (launch,) = counted(stage, family("tma_persistent"), target=target)
        assert launch.programs == product(target).sms
        assert launch.flops == pytest.approx(2 * 8192**3)
    assert launch.work.max == pytest.approx(27 / (2048 / 78), rel=1e-3)


def test_every_shape_gets_a_prediction_below_the_peak(stage: Predict) -> None:
    result = run(stage, family("split_k"))
    assert [p.shape for p in result.artifacts["predictions"]] == [s.name for s in TASK.timing]
    for prediction in result.artifacts["predictions"]:
        assert 0 < prediction.utilization < 1
        assert prediction.bound in prediction.terms
    assert len(result.facts["counted"]["4k-cube"]) == 2  # the product, and the sum of its parts


def test_counts_are_shared_by_points_that_differ_in_warps_and_stages(
    stage: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = family("naive").replace("naive_kernel", "counted_once")
    first = run(stage, source, NUM_WARPS=4)
    known, answers = stage._known, []
    monkeypatch.setattr(stage, "_known", lambda *asked: answers.append(known(*asked)) or answers[-1])
    again = run(stage, source, NUM_WARPS=8)
    assert again.artifacts["counted"] == first.artifacts["counted"]
    assert len(answers) == sum(map(len, first.artifacts["counted"].values()))
    assert all(answers)


def test_gluon_without_compiled_facts_is_unavailable(stage: Predict) -> None:
    result = run(stage, family("gluon_ws"))
    assert result.outcome is Outcome.UNAVAILABLE
    assert result.artifacts["predictions"] == ()
    assert "Gluon" in result.findings[0].message


@pytest.mark.parametrize(
    ("body", "word"),
    [("raise RuntimeError('no such tile')", "no such tile"), ("import os; os._exit(0)", "replied"), ("pass", "")],
)
def test_a_candidate_that_fails_has_no_prediction(stage: Predict, body: str, word: str) -> None:
    result = run(stage, f"def fp8_gemm(*args, **kwargs):\n    {body}\n")
    if word:
        assert result.outcome is Outcome.UNAVAILABLE
        assert word in result.findings[0].message
    else:
        assert all("no kernel was launched" in p.warnings for p in result.artifacts["predictions"])


def test_causal_attention_does_half_of_the_square(workers: Workers, tmp_path: Path) -> None:
    heads, length, depth = 4, 4096, 64
    tensors = [tensor(name, "bfloat16", heads, length, depth) for name in ("q", "k", "v", "out")]
    (counts,) = launches(count(workers, tmp_path, "flash", tensors))
    dots = [m for loop in counts["loops"] for m in loop["mma"]]
    flops = counts["programs"] * sum(2 * m["m"] * m["n"] * m["k"] * m["count"] for m in dots)
    assert flops == pytest.approx(2 * 2 * heads * length * length * depth / 2, rel=0.1)
    exponentials = counts["programs"] * sum(loop["operations"].get("special", 0) for loop in counts["loops"])
    assert exponentials == pytest.approx(heads * length * length / 2, rel=0.15)
    assert 1.5 < counts["work"]["max"] < 2.2  # the last rows attend to everything, the mean to half


def test_real_ids_steer_what_is_read(workers: Workers, tmp_path: Path) -> None:
    rows = 64
    ids = b"".join(int(i % 8).to_bytes(4, "little") for row in range(rows) for i in range(8))
    tensors = [
        tensor("ids", "int32", rows, 8),
        tensor("counts", "int32", rows),
        tensor("x", "bfloat16", 64, 64),
        tensor("out", "float32", rows, 64),
    ]
    read = []
    for blocks in (2, 6):
        folder = tmp_path / str(blocks)
        folder.mkdir()
        found = count(workers, folder, "gather", tensors, ids=ids, counts=blocks.to_bytes(4, "little") * rows)
        (counts,) = launches(found)
        assert not counts["warnings"]
        read.append(traffic(counts, "x"))
    assert read == [rows * 2 * 8 * 128, rows * 6 * 8 * 128]


def test_libdevice_and_atomics_are_counted_and_doubted(workers: Workers, tmp_path: Path) -> None:
    tensors = [tensor("x", "float32", 1000), tensor("out", "float32", 8)]
    (counts,) = launches(count(workers, tmp_path, "accumulate", tensors))
    assert any("libdevice" in warning for warning in counts["warnings"])
    assert sum(loop["operations"].get("extern", 0) for loop in counts["loops"]) == 64
    assert traffic(counts, "out", "atomic") > 0


def test_an_autotuned_kernel_is_counted_once_and_so_is_each_replay(workers: Workers, tmp_path: Path) -> None:
    tensors = [tensor("x", "float32", 1000), tensor("out", "float32", 1000)]
    (counts,) = launches(count(workers, tmp_path, "scale", tensors))
    assert counts["grid"] == [32, 1, 1]
    assert len(launches(count(workers, tmp_path, "scale_in_graph", tensors))) == 2
    assert len(launches(count(workers, tmp_path, "scale_once_then_in_graph", tensors))) == 1


def test_a_queue_whose_end_is_unknown_is_counted_once_and_doubted(workers: Workers, tmp_path: Path) -> None:
    tensors = [tensor("x", "float32", 65536), tensor("out", "float32", 65536)]
    (counts,) = launches(count(workers, tmp_path, "queue", tensors))
    assert counts["programs"] == 132
    assert any("depends on data" in warning for warning in counts["warnings"])
