"""Nothing outlives its owner, and what breaks is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kopt.errors import HarnessError, MachineError
from kopt.evaluate.worker.processes import family, go_on, halt, processor_seconds
from kopt.judge import Judge
from kopt.judge.lock import lock
from kopt.records import Status, Task

from .conftest import QUICK
from .kernels import PLAIN, kernel

SLOW = kernel("import time\ntime.sleep(0.03)\ncompute(a, scale, b, out)")


def stat(pid: int) -> list[str]:
    """From the state on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def started(pid: int) -> int:
    """When a process began. By this, not by its number: numbers come round."""
    return int(stat(pid)[19])


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return stat(pid)[0] != "Z"
    except OSError:
        return False


def runners(judge: Judge) -> list[int]:
    """Its runners, the oldest first."""
    found = [p for p in family(judge.about["pid"]) if "kopt-runner-" in str(Path(f"/proc/{p}/cwd").readlink())]
    return sorted(found, key=started)


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(p) for p in pids):
            return True
        time.sleep(0.05)
    return False


def test_judge_and_runners_end_with_their_driver(blend: Task) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom kopt import content\nfrom kopt.judge import Judge\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from judge.conftest import QUICK\nfrom judge.test_processes import SLOW\n"
        f"judge = Judge(content.read_task(Path({blend.folder!r})), 'cpu')\n"
        "judge.measure(SLOW, plan=QUICK)\nprint('ready', flush=True)\n"
        "while True:\n    judge.measure(SLOW, plan=QUICK)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        time.sleep(0.5)
        everybody = family(driver.pid)
        assert len(everybody) >= 4  # driver, judge, fork server, runner
    finally:
        driver.kill()
        driver.wait()
    assert gone(everybody[1:])


def test_a_judge_that_is_killed_is_replaced_and_the_verdict_still_comes(blend: Task) -> None:
    with Judge(blend, "cpu") as judge:
        judge.measure(PLAIN, plan=QUICK)
        first = judge.about["pid"]
        everybody = family(first)
        threading.Timer(0.7, os.kill, (first, signal.SIGKILL)).start()
        # A busy machine must not make it a timeout.
        judgement = judge.measure(SLOW, plan=QUICK.model_copy(update={"call_seconds": 20.0}))
        assert judge.about["pid"] != first
        assert judgement.status is Status.PASSED
        assert gone(everybody)


def test_a_judge_may_die_of_any_signal(blend: Task) -> None:
    with Judge(blend, "cpu") as judge:
        judge.start()
        first = judge.about["pid"]
        os.kill(first, 40)
        assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED
        assert judge.about["pid"] != first


def test_a_judge_that_hangs_twice_is_a_harness_error(blend: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kopt.judge.client._SLACK", -59.0)
    with Judge(blend, "cpu") as judge, pytest.raises(HarnessError, match="broke twice"):
        judge.measure(SLOW, plan=QUICK)


@pytest.mark.parametrize("before", [0.0, 0.5])
def test_the_next_runner_waits_without_a_kernel_and_is_replaced_when_it_dies(judge: Judge, before: float) -> None:
    judge.measure(PLAIN, plan=QUICK)
    # Whoever has imported a kernel has its file; the baseline has none either, but was there before.
    _, waiting = runners(judge)
    assert not list(Path(f"/proc/{waiting}/cwd").glob("*.py"))
    time.sleep(before)  # it has said by then that it is awake
    os.kill(waiting, signal.SIGKILL)
    assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED


def test_a_baseline_that_died_between_two_verdicts_is_replaced(judge: Judge) -> None:
    judge.measure(PLAIN, plan=QUICK)
    baseline, _ = runners(judge)
    os.kill(baseline, signal.SIGKILL)
    assert gone([baseline])
    assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED


def test_nothing_is_left_of_a_closed_judge(blend: Task) -> None:
    with Judge(blend, "cpu") as judge:
        judge.measure(PLAIN, plan=QUICK)
        everybody = family(judge.about["pid"])
        folder = Path(judge._folder.name if judge._folder else "")
        assert len(everybody) >= 2
        assert len(list(folder.glob("kopt-runner-*"))) == 2  # the baseline's is kept, and the next one waits
    assert gone(everybody)
    assert not folder.exists()


def test_between_its_batches_a_runner_is_stopped(blend: Task) -> None:
    with Judge(blend, "cpu") as judge:
        judge.measure(PLAIN, plan=QUICK)
        baseline, waiting = runners(judge)  # the latter has imported nothing yet
        assert (stat(baseline)[0], stat(waiting)[0] in "SR") == ("T", True)
        assert judge.measure(PLAIN, plan=QUICK).status is Status.PASSED


def test_no_thread_of_a_kernel_runs_while_its_opponent_is_timed(judge: Judge) -> None:
    """Its result is wrong if one could, beside rests of the opponent's of a tenth of a second."""
    watching = kernel(
        "if GAP and time.monotonic() - LATELY[0] > 0.15 and max(GAP) < 0.05:\n    out.zero_()\n    return\n"
        "compute(a, scale, b, out)\nGAP.clear()\nLATELY[0] = time.monotonic()",
        prelude="import threading, time\nGAP, LATELY = [], [time.monotonic()]\n\ndef watch():\n    while True:\n"
        "        since = time.monotonic()\n        time.sleep(0.001)\n        GAP.append(time.monotonic() - since)\n\n"
        "threading.Thread(target=watch, daemon=True).start()",
    )
    plan = QUICK.model_copy(update={"quads": 3, "idle_s": 0.1, "check": False})
    judgement = judge.measure(watching, plan=plan, shapes=judge.task.timing[:1])
    assert judgement.status is Status.PASSED, judgement.findings


def test_who_is_stopped_takes_no_processor_and_nor_do_its_children() -> None:
    busy = "import os\nif os.fork() == 0:\n    os.setsid()\nprint(flush=True)\nwhile True:\n    pass"
    process = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() + process.stdout.readline() == "\n\n"
        everybody = halt(process.pid)
        assert len(everybody) == 2
        taken = processor_seconds(everybody)
        time.sleep(0.3)
        assert processor_seconds(everybody) == taken
        go_on(everybody)
        end = time.monotonic() + 10
        while any(processor_seconds(everybody)[pid] < before + 0.05 for pid, before in taken.items()):
            assert time.monotonic() < end
    finally:
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def test_what_an_honest_kernel_does_after_a_batch_is_its_own_business(judge: Judge) -> None:
    tidying = kernel(
        "compute(a, scale, b, out)\nDONE.append(1)",
        prelude="import threading, time\nDONE = []\n\ndef tidy():\n    while True:\n        time.sleep(0.001)\n"
        "        end = time.monotonic() + (0.003 if DONE else 0)\n        DONE.clear()\n"
        "        while time.monotonic() < end:\n            pass\n\n"
        "threading.Thread(target=tidy, daemon=True).start()\ntorch.set_num_threads(2)",
    )
    plan = QUICK.model_copy(update={"quads": 60})
    assert judge.measure(tidying, plan=plan).status is Status.PASSED


def test_a_judge_without_a_device_leaves_no_lock(judge: Judge) -> None:
    judge.measure(PLAIN, plan=QUICK)
    assert not Path(f"/tmp/kopt-judge-cpu-{judge.about['pid']}.lock").exists()


def test_a_device_has_one_judge() -> None:
    name = f"test-{os.getpid()}"
    held = lock(name)
    with pytest.raises(MachineError, match=f"process {os.getpid()}"):
        lock(name)
    os.close(held)
    os.close(lock(name))


def test_the_second_judge_says_who_has_the_device(blend: Task) -> None:
    device = f"shared-{os.getpid()}"
    with Judge(blend, "cpu", device=device) as first:
        first.measure(PLAIN, plan=QUICK)
        with Judge(blend, "cpu", device=device) as second, pytest.raises(MachineError, match="another kopt judge"):
            second.measure(PLAIN, plan=QUICK)
        assert first.measure(PLAIN, plan=QUICK).status is Status.PASSED


def test_without_a_gpu_the_cuda_backend_says_what_is_missing(blend: Task) -> None:
    from kopt.machine.detect import detect

    if detect().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match="no GPU to measure on"):
        Judge(blend, "cuda")
