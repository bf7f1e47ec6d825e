"""One table for all kernels. On the CPU backend it exercises everything but claims nothing about a GPU."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from judge.kernels import PLAIN, WORKSPACE, ZEROS, kernel

from kopt import content
from kopt.bench.entries import BASELINE, Entry, entries
from kopt.bench.rounds import Row, bench
from kopt.bench.show import as_csv, means, table
from kopt.errors import UsageError
from kopt.judge import Judge, Plan
from kopt.machine.products import product
from kopt.records import Quantity, Task

PLAN = Plan(quads=1, batch_us=500.0, idle_s=0.0, graph=False, agreement=False, call_seconds=5.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(Path(__file__).parent / "judge" / "tasks" / "blend", tmp_path / "tasks" / "blend")
    (tmp_path / "kopt.toml").write_text("")
    rungs = tmp_path / "kernels" / "blend"
    rungs.mkdir(parents=True)
    (rungs / "zz_first.py").write_text('"""One."""\nRUNG = 1\n' + PLAIN)
    (rungs / "aa_second.py").write_text(WORKSPACE + "\n\nRUNG = 2\n")
    return tmp_path


@pytest.fixture
def task(root: Path) -> Task:
    return content.load_task("blend", root)


def kopt(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kopt", "--workspace", str(root), *arguments], capture_output=True, text=True
    )


def test_kernels_fail_pass_and_are_refused_side_by_side(task: Task) -> None:
    slow = kernel("import time\ntime.sleep(0.005)\ncompute(a, scale, b, out)")
    taking_part = [
        Entry("slow", slow, {}),
        Entry("plain", PLAIN, {}),
        Entry("wrong", ZEROS, {}),
    ]
    steps = []
    with Judge(task, "cpu") as judge:
        rows = bench(judge, task, taking_part, task.timing, "burst", PLAN, 2, lambda n, label: steps.append((n, label)))
    # Every kernel once a round, the second round backwards, and no second chance for what failed.
    assert steps == [(0, "slow"), (0, "plain"), (0, "wrong"), (1, "plain"), (1, "slow")]
    by = {(r.kernel, r.shape): r for r in rows}
    assert [r.kernel for r in rows[-2:]] == [BASELINE] * 2
    for shape in task.timing:
        quick, late = by["plain", shape.name], by["slow", shape.name]
        assert quick.us is not None
        assert late.us is not None
        assert late.us.value > 3 * quick.us.value
        assert late.us.low is not None
        assert late.us.low <= late.us.value
        assert late.baseline is not None
        assert late.baseline.value < 0.5
        assert by["wrong", shape.name].status == "wrong"
        assert by["wrong", shape.name].us is None
        # No peak, no rate: these times are not a GPU's.
        assert {(r.utilization, r.tflops, r.gbs) for r in rows} == {(None, None, None)}


def test_files_come_first_then_the_rungs_in_their_order(task: Task, root: Path) -> None:
    mine = root / "mine.py"
    mine.write_text(PLAIN)
    assert [e.label for e in entries(task, "h200", root, [str(mine)])] == ["mine", "zz_first", "aa_second"]
    assert [e.label for e in entries(task, "h200", root, [str(mine)] * 2, others=False)] == ["mine", "mine (2)"]
    mine.write_text("import os\n" + PLAIN)
    refused = entries(task, "h200", root, [str(mine)], others=False)[0].refused
    assert refused is not None
    assert refused.rule == "policy.import"
    with pytest.raises(UsageError, match="neither a file nor RUN/N"):
        entries(task, "h200", root, ["nothing.py"])


def test_rates_are_the_tasks_own_count_over_time(task: Task) -> None:
    from kopt.bench import rounds
    from kopt.evaluate import hooks

    shape = task.timing[0]
    row = rounds._row(task, shape, product("h200"), "x", Quantity(value=2.0))
    cost = hooks.cost(task, shape)
    assert row.tflops == pytest.approx(cost.flops / 2e-6 / 1e12)
    assert row.gbs == pytest.approx((cost.read + cost.written) / 2e-6 / 1e9)
    assert row.utilization == pytest.approx((row.tflops or 0) / 989.5)


def test_a_missing_shape_leaves_a_kernel_without_a_mean() -> None:
    rows = [
        Row("a", "s", "passed", Quantity(value=1.0), utilization=0.25, baseline=Quantity(value=4.0)),
        Row("a", "t", "passed", Quantity(value=1.0), utilization=1.0, baseline=Quantity(value=1.0)),
        Row("b", "s", "passed", Quantity(value=1.0), utilization=0.9, baseline=Quantity(value=1.0)),
        Row("b", "t", "passed", Quantity(value=1.0), baseline=None),
    ]
    assert means(rows) == {"a": (pytest.approx(0.5), pytest.approx(2.0)), "b": (None, None)}
    assert table(rows).row_count == 6


@pytest.mark.slow
def test_the_command_prints_json_csv_and_a_figure(root: Path, tmp_path: Path) -> None:
    done = kopt(root, "bench", "blend", "--backend", "cpu", "--rounds", "1", "--json", "--csv", str(tmp_path / "t.csv"),
                "--figure", str(tmp_path / "t.svg"))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {row["kernel"] for row in found["rows"]} == {"zz_first", "aa_second", BASELINE}
    assert found["target"] is None
    assert all(row["utilization"] is None for row in found["rows"])
    lines = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["kernel"] for row in lines] == [row["kernel"] for row in found["rows"]]
    assert as_csv([]).count("\n") == 1
    assert "<svg" in (tmp_path / "t.svg").read_text()


def test_without_a_gpu_it_says_so_in_one_line_and_leaves_with_3(root: Path) -> None:
    from kopt.machine.detect import detect

    if detect().gpus:
        pytest.skip("this machine has a GPU")
    done = kopt(root, "bench", "blend")
    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "kopt bench measures" in done.stderr
