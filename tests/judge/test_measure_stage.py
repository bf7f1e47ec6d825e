"""A run that measures goes on when its judge breaks over a kernel, and waits while the device is taken."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from kopt.errors import DeviceTaken, JudgeBroke
from kopt.evaluate.measure import Measure
from kopt.evaluate.stage import Case
from kopt.judge import Judge
from kopt.machine.products import product
from kopt.records import Outcome, Status, Submission, Task, digest

from .conftest import QUICK
from .kernels import PLAIN, kernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge is for Linux")

SLOW = kernel("import time\ntime.sleep(0.5)\ncompute(a, scale, b, out)")


def case(task: Task, source: str) -> Case:
    return Case(task, Submission(n=1, sha=digest(source), origin="user"), source, product("h200"), {})


@contextmanager
def killing(judge: Judge) -> Iterator[None]:
    """While it is open, no judge lives for a tenth of a second."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.1):
            if judge.about.get("pid"):
                with suppress(ProcessLookupError):
                    os.kill(judge.about["pid"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_judge_that_breaks_over_a_kernel_costs_that_kernel_alone(blend: Task) -> None:
    with Judge(blend, "cpu") as judge:
        stage = Measure(judge)
        assert stage.measure(case(blend, PLAIN), QUICK).outcome is Outcome.PASSED
        with killing(judge):
            result = stage.measure(case(blend, SLOW), QUICK)
        assert [(f.rule, f.status) for f in result.findings] == [("judge.broke", Status.CRASHED)]
        assert stage.measure(case(blend, PLAIN), QUICK).outcome is Outcome.PASSED


@pytest.mark.parametrize("blame", [True, False])
def test_a_judge_that_never_worked_or_a_contest_is_no_kernels_doing(blend: Task, blame: bool) -> None:
    with Judge(blend, "cpu") as judge:
        stage = Measure(judge)
        if not blame:
            stage.measure(case(blend, PLAIN), QUICK)
        else:
            judge.start()
        with killing(judge), pytest.raises(JudgeBroke):
            stage.measure(case(blend, SLOW), QUICK, blame=blame)


def test_a_device_that_is_taken_for_a_while_is_waited_for(blend: Task) -> None:
    with taken(blend, pause_s=0.2) as (stage, release):
        threading.Timer(0.5, release).start()
        result = stage.measure(case(blend, PLAIN), QUICK)
    assert result.outcome is Outcome.PASSED
    assert result.findings[0].rule == "judge.waited"
    assert "another kopt judge" in result.findings[0].message


def test_who_wants_to_end_waits_for_no_device(blend: Task) -> None:
    with taken(blend, pause_s=60.0) as (stage, _):
        threading.Timer(0.5, stage.hurry.set).start()
        began = time.monotonic()
        with pytest.raises(DeviceTaken, match="another kopt judge"):
            stage.measure(case(blend, PLAIN), QUICK)
        assert time.monotonic() - began < 30.0


@contextmanager
def taken(task: Task, pause_s: float) -> Iterator[tuple[Measure, Callable[[], None]]]:
    """A stage that has measured on a device that another judge has taken since, and what ends that one."""
    device = f"taken-{os.getpid()}-{pause_s}"
    with Judge(task, "cpu", device=device) as mine, Judge(task, "cpu", device=device) as other:
        stage = Measure(mine, pause_s=pause_s)
        stage.measure(case(task, PLAIN), QUICK)
        mine.close()
        other.start()
        yield stage, other.close
