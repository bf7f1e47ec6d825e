"""What a verdict says, by the judge and runner that also serve a GPU. Who is rejected for what: tests/test_audit.py."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt import content
from kopt.errors import RivalFailed
from kopt.judge import Judge, Plan, Rival
from kopt.records import Shape, Status, Task

from .conftest import QUICK
from .kernels import COMPUTE, PLAIN, ZEROS, attack, kernel

UNCHECKED = QUICK.model_copy(update={"check": False})
"""Without the check shapes: the timed batches themselves must find it."""


def test_an_honest_kernel_passes_and_is_timed(judge: Judge, blend: Task) -> None:
    judgement = judge.measure(PLAIN, plan=QUICK)
    assert judgement.findings == ()
    assert judgement.status is Status.PASSED
    assert [m.shape for m in judgement.measurements] == [s.name for s in blend.timing]
    assert all(m.host_us.value > 0 and m.calls > 0 for m in judgement.measurements)


def test_a_finding_names_shape_place_and_numbers(judge: Judge) -> None:
    finding = judge.measure(ZEROS, plan=QUICK).findings[-1]
    assert finding.shape == "ragged"
    assert "out[" in finding.place
    assert finding.got == "0"
    assert float(finding.want) != 0


def test_at_a_small_check_shape_every_element_of_every_call_is_compared(blend: Task) -> None:
    # The first call of a batch wakes the kernel up; the fourth is the last of three that count.
    source = kernel(
        "compute(a, scale, b, out)\nCALLS.append(1)\nif len(CALLS) == 4:\n    out[17, 23] += 100", prelude="CALLS = []"
    )
    shape = Shape(name="check", dims={"M": 64, "N": 64, "K": 8})
    with Judge(blend.model_copy(update={"check_cpu": (shape,)}), "cpu") as judge:
        finding = judge.measure(source, plan=QUICK).findings[-1]
    assert (finding.shape, finding.place) == ("check", "normal out[17, 23]")
    assert "1 of 4096 elements is wrong (call 3 of 3)" in finding.message


def test_a_written_input_is_named(judge: Judge) -> None:
    finding = judge.measure(attack("C1_writes_its_input"), plan=QUICK).findings[-1]
    assert finding.rule == "judge.inputs"
    assert "input a" in finding.message


def test_a_syntax_error_is_a_compile_error_with_its_line(judge: Judge) -> None:
    judgement = judge.measure(COMPUTE + "\ndef blend(:\n    pass\n", plan=QUICK)
    assert judgement.status is Status.COMPILE_ERROR
    assert "SyntaxError" in judgement.findings[-1].message


def test_an_exception_names_the_line_of_the_kernel(judge: Judge) -> None:
    source = kernel("raise ValueError('no')")
    line = source.splitlines().index("    raise ValueError('no')") + 1
    assert judge.measure(source, plan=QUICK).findings[-1].place == f"line {line}"


def test_parameters_reach_the_kernel(judge: Judge) -> None:
    source = COMPUTE + "\ndef blend(a, scale, b, out, *, TILE):\n    assert TILE == 32\n    compute(a, scale, b, out)\n"
    assert judge.measure(source, {"TILE": 32}, plan=QUICK).status is Status.PASSED
    assert judge.measure(source, {"TILE": 64}, plan=QUICK).status is Status.CRASHED


def test_a_kernel_is_never_called_with_what_is_no_input(judge: Judge) -> None:
    source = kernel("assert scale.item() == 0.5 or 2.0 <= scale.item() < 3.0\ncompute(a, scale, b, out)")
    assert judge.measure(source, plan=QUICK).findings == ()


def test_a_crash_costs_one_runner_and_no_judge(judge: Judge) -> None:
    judge.measure(PLAIN, plan=QUICK)
    before = judge.about["pid"]
    judge.measure(attack("H8_segfault"), plan=QUICK)
    assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED
    assert judge.about["pid"] == before


def test_times_on_the_cpu_are_never_called_utilization(judge: Judge) -> None:
    for measurement in judge.measure(PLAIN, plan=QUICK).measurements:
        assert measurement.utilization is None
        assert measurement.roofline is None


def test_every_process_of_a_plan_is_a_fresh_one(judge: Judge) -> None:
    # About 50 calls a process: one process for all three would count past the limit.
    source = kernel("global CALLS\nCALLS += 1\nassert CALLS < 150\ncompute(a, scale, b, out)", "CALLS = 0")
    plan = UNCHECKED.model_copy(update={"processes": 3, "quads": 3, "most_calls": 4})
    judgement = judge.measure(source, plan=plan)
    assert judgement.status is Status.PASSED
    assert all(len(logs) == 3 for logs in judgement.quads.values())


def test_a_failure_of_the_incumbent_is_not_held_against_the_candidate(judge: Judge) -> None:
    with pytest.raises(RivalFailed, match="the incumbent failed"):
        judge.measure(PLAIN, plan=UNCHECKED, rival=Rival(source=ZEROS))
    assert judge.measure(PLAIN, plan=UNCHECKED).status is Status.PASSED


def test_who_is_slow_when_asked_how_long_a_call_takes_is_timed_in_whole_batches_all_the_same(judge: Judge) -> None:
    """In batches of two calls nothing that wants more of them could be looked for."""
    slow = "global CALLS\nCALLS += 1\nif CALLS < 24:\n    time.sleep(0.02)\ncompute(a, scale, b, out)"
    plan = UNCHECKED.model_copy(update={"quads": 4, "batch_us": 20_000.0, "most_calls": 12})
    shape = judge.task.timing[:1]
    honest, slower = (
        judge.measure(s, plan=plan, shapes=shape) for s in (PLAIN, kernel(slow, "import time\nCALLS = 0"))
    )
    assert honest.status is slower.status is Status.PASSED
    assert slower.measurements[0].calls >= honest.measurements[0].calls / 2


def test_a_baseline_that_fails_leaves_a_time_without_a_ratio(judge: Judge, blend: Task) -> None:
    broken = content.read_task(Path(blend.folder).parent / "no_baseline")
    with Judge(broken, "cpu") as other:
        judgement = other.measure(PLAIN, plan=UNCHECKED)
    assert judgement.status is Status.PASSED
    for measurement in judgement.measurements:
        assert measurement.baseline_ratio is None
        assert any("no baseline" in warning for warning in measurement.warnings)


def test_a_single_batch_in_which_the_host_stalls_is_not_what_a_kernel_takes(blend: Task) -> None:
    # Of one process at one shape: an alert and a call, twice an alert and two calls, then the batch that is timed.
    stalls = "import time\nCALLS = [0]\n"
    source = kernel("CALLS[0] += 1\nif CALLS[0] == 10:\n    time.sleep(0.3)\ncompute(a, scale, b, out)", stalls)
    alone = content.read_task(Path(blend.folder).parent / "no_baseline")
    shape = alone.timing[:1]
    plan = UNCHECKED.model_copy(update={"quads": 1, "most_calls": 2, "accuracy": False})
    with Judge(alone, "cpu") as judge:
        judgement = judge.measure(source, shapes=shape, plan=plan)
    assert judgement.status is Status.PASSED
    assert judgement.facts["shapes"][shape[0].name]["batches"] == 3
    assert judgement.measurements[0].host_us.value < 50_000


def test_the_slower_of_two_kernels_has_the_larger_log_ratio(judge: Judge) -> None:
    slow = kernel("import time\ntime.sleep(0.02)\ncompute(a, scale, b, out)")
    plan = Plan(quads=2, batch_us=60_000.0, idle_s=0.0, check=False, call_seconds=5.0)
    judgement = judge.measure(slow, plan=plan, rival=Rival(source=PLAIN))
    assert judgement.status is Status.PASSED
    for shape, logs in judgement.quads.items():
        assert min(logs) > 0, shape
        assert all(m.host_us.value > 15_000 for m in judgement.measurements)


def test_outputs_that_differ_from_call_to_call_within_the_bound_are_told(judge: Judge) -> None:
    shaky = kernel("compute(a, scale, b, out)\nout[0].mul_(1.0 + 4e-7 * torch.rand(out.shape[1], device=out.device))")
    judgement = judge.measure(shaky, plan=UNCHECKED)
    assert judgement.status is Status.PASSED
    assert all(any("different outputs" in w for w in m.warnings) for m in judgement.measurements)
    calm = judge.measure(PLAIN, plan=UNCHECKED)
    assert not any("different outputs" in w for m in calm.measurements for w in m.warnings)


def test_an_error_within_the_bound_but_far_above_the_vendor_librarys_is_wrong(judge: Judge) -> None:
    # A tenth of the tolerance, spread evenly: no element is out of bounds.
    careless = kernel("compute(a, scale, b, out)\nout.mul_(1.0 + 1e-5)")
    judgement = judge.measure(careless, plan=QUICK)
    assert judgement.status is Status.WRONG or judgement.findings[-1].rule == "numerics.exact"
    timed_only = QUICK.model_copy(update={"check": False})
    finding = judge.measure(careless, plan=timed_only).findings[-1]
    assert finding.rule == "judge.precision"
    assert float(finding.got) > float(finding.bound)


def test_every_process_is_held_to_the_vendor_librarys_exactness(judge: Judge) -> None:
    # By the clock, since nothing else tells it: the first process is the one that is imported before a moment.
    source = kernel(
        "global WAITED\n"
        "compute(a, scale, b, out)\n"
        "if LATER:\n    out.mul_(1.0 + 1e-5)\n"
        "elif not WAITED:\n    WAITED = True\n    time.sleep(max(0.0, MOMENT - time.time()))",
        f"import time\nMOMENT = {time.time() + 3.0}\nLATER, WAITED = time.time() > MOMENT, False",
    )
    plan = UNCHECKED.model_copy(update={"processes": 2, "quads": 2, "call_seconds": 10.0})
    judgement = judge.measure(source, plan=plan)
    assert judgement.status is Status.WRONG
    assert judgement.findings[-1].rule == "judge.precision"


def test_who_hangs_is_told_with_how_far_it_came(judge: Judge) -> None:
    stuck = kernel("global N\nN += 1\nif N > 6:\n    time.sleep(60)\ncompute(a, scale, b, out)", "import time\nN = 0")
    judgement = judge.measure(stuck, plan=UNCHECKED.model_copy(update={"call_seconds": 3.0}))
    assert judgement.status is Status.TIMEOUT
    message = judgement.findings[-1].message
    assert re.search(r"did not finish within \S+ s, by its word with \d+ of \d+ calls returned", message), message


def test_when_the_time_is_over_what_was_measured_is_not_lost(judge: Judge) -> None:
    slow = kernel("import time\ntime.sleep(0.03)\ncompute(a, scale, b, out)")
    endless = Plan(quads=500, batch_us=500.0, idle_s=0.0, check=False, most_calls=2, seconds=4.0, call_seconds=5.0)
    judgement = judge.measure(slow, plan=endless)
    assert judgement.status is Status.TIMEOUT
    assert judgement.findings[-1].rule == "judge.deadline"
    partial = judgement.facts["partial"]["square"]
    assert partial["us"] > 25_000
    assert partial["quads"] >= 2
    # The only shape, or the last: its quads are enough for a measurement that says what it lacks.
    one = judge.measure(slow, shapes=judge.task.timing[:1], plan=endless)
    assert one.status is Status.PASSED
    assert any("time was over after" in w for w in one.measurements[0].warnings)


LEAVES_A_MARK = """
import os
from pathlib import Path

CACHE = Path(os.environ["TRITON_CACHE_DIR"])
MADE, MARKED = (CACHE / "key" / "made").exists(), (CACHE / "key" / "mark").exists()
(CACHE / "key").mkdir(parents=True, exist_ok=True)
(CACHE / "key" / "mark").touch()
"""


def test_binaries_reach_every_process_of_their_source_and_nobody_else(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "made").touch()
    source = kernel("compute(a, scale, b, out)", LEAVES_A_MARK + "assert MADE")
    thrice = UNCHECKED.model_copy(update={"processes": 3, "quads": 3})
    assert judge.measure(source, plan=UNCHECKED).status is Status.CRASHED  # nothing there yet
    assert judge.measure(source, plan=thrice, binaries=tmp_path).status is Status.PASSED
    assert judge.measure(source, plan=UNCHECKED).status is Status.PASSED
    assert judge.measure(source + "# another\n", plan=UNCHECKED).status is Status.CRASHED


def test_what_one_process_leaves_no_later_one_finds(judge: Judge) -> None:
    source = kernel("compute(a, scale, b, out)", LEAVES_A_MARK + "assert not MARKED")
    thrice = UNCHECKED.model_copy(update={"processes": 3, "quads": 3})
    for _ in range(2):
        assert judge.measure(source, plan=thrice).status is Status.PASSED


# ----------------------------------------------------------------------------------------------------- timed in a graph


@pytest.fixture(scope="module")
def graphing(blend: Task) -> Iterator[Judge]:
    """The same task, whose calls are timed in a graph."""
    with Judge(blend.model_copy(update={"score": blend.score.model_copy(update={"launch": "graph"})}), "cpu") as judge:
        yield judge


def test_calls_may_be_timed_in_a_graph(graphing: Judge) -> None:
    judgement = graphing.measure(PLAIN, plan=QUICK)
    assert judgement.status is Status.PASSED
    assert all(m.host_us.value > 0 and m.device_us is None for m in judgement.measurements)


@pytest.mark.parametrize(
    "name", ["A2_memo_by_pointer", "A3_memo_by_shape", "E3_every_other_call", "C1_writes_its_input"]
)
def test_a_graph_is_looked_at_like_any_other_batch(graphing: Judge, name: str) -> None:
    assert graphing.measure(attack(name), plan=UNCHECKED).status not in (Status.PASSED, Status.TIMEOUT)
