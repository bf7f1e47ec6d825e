"""What is seen of a device while a batch runs: only what falls into the batch counts, and silence stops nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from kopt.judge import witness
from kopt.judge.backends import Activity
from kopt.judge.telemetry import LAG_S, MARK_S, Reading, Watch, Watcher, serve, together
from kopt.machine.products import product
from kopt.records import Status

H200 = product("h200")


class Steps:
    """A device whose clock rises by 1 MHz a look, and whose pipes are half busy."""

    no_counters = ""

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> Reading:
        self.looks += 1
        reasons = ("power cap",) if self.looks > 2 else ()
        return Reading(time.perf_counter_ns(), 1000.0 + self.looks, None, 40.0, reasons)

    def mark(self) -> int:
        return time.perf_counter_ns()

    def between(self, one: int, other: int) -> Mapping[str, float]:
        return {"tensor": 0.5, "sm": 0.75, "dram": 0.1}


@pytest.fixture
def watched() -> Iterator[tuple[Watcher, Steps]]:
    mine, theirs = socket.socketpair()
    source = Steps()
    thread = threading.Thread(target=serve, args=(theirs, source), daemon=True)
    thread.start()
    watcher = Watcher(mine)
    yield watcher, source
    watcher.close()
    thread.join(5.0)
    assert not thread.is_alive()  # it ends with the judge


def test_what_falls_into_the_window_is_attached_and_nothing_else(watched: tuple[Watcher, Steps]) -> None:
    watcher, source = watched
    assert source.looks == 0  # nobody looks while nothing is timed
    watcher.watch(5.0, count=False)
    while source.looks < 5:
        time.sleep(1e-3)
    since = time.perf_counter_ns()
    before = source.looks
    while source.looks < before + 10:
        time.sleep(1e-3)
    sample = watcher.seen(since, time.perf_counter_ns())
    assert sample is not None
    assert sample.clock_mhz is not None
    assert sample.clock_mhz > 1000 + before
    assert (sample.power_w, sample.temperature_c, sample.throttle) == (None, 40.0, ("power cap",))
    assert 5 <= sample.readings <= source.looks
    assert watcher.activity is None
    looks = source.looks
    time.sleep(0.02)
    assert source.looks <= looks + 1  # the question ended the watch


def test_a_window_in_which_nothing_was_seen_has_no_sample(watched: tuple[Watcher, Steps]) -> None:
    watcher, _ = watched
    watcher.watch(5.0, count=False)
    assert watcher.seen(0, 1) is None
    assert together([]) is None


def test_a_watcher_that_is_gone_costs_the_telemetry_and_nothing_else() -> None:
    mine, theirs = socket.socketpair()
    theirs.close()
    watcher = Watcher(mine)
    assert watcher.no_counters == "its process does not answer"
    watcher.watch(1.0, count=True)
    assert watcher.seen(0, 1) is None


def test_counters_are_compared_only_when_the_load_has_reached_them() -> None:
    watch = Watch(Steps())
    start = time.perf_counter_ns()
    watch.obey({"op": "watch", "until": start + 10**10, "count": True})
    watch.step()
    end = start + int(1e9)
    # Marks as they come: one at the start of the load, then every 0.1 s.
    watch._marks = [(start + int(n * MARK_S * 1e9), n) for n in range(11)]
    answer = watch.obey({"op": "seen", "since": start, "until": end})
    assert answer is not None
    assert answer["activity"]["seconds"] == pytest.approx(1.0 - (int(LAG_S / MARK_S) + 1) * MARK_S)
    short = watch.obey({"op": "seen", "since": start, "until": start + int(0.4e9)})
    assert short is not None
    assert short["activity"] == {}


@pytest.mark.parametrize(
    ("claimed", "tensor", "status"),
    [
        (1500.0, 0.95, "nothing"),  # what the pipes did at the sampled clock
        (1500.0, 0.65, None),  # more than at that clock, less than at the highest one
        (1500.0, 0.5, Status.REJECTED),
        (15.0, 0.0, "nothing"),  # other units than tensor pipes can do so much
    ],
)
def test_what_pipes_were_not_seen_doing_is_not_believed(claimed: float, tensor: float, status: object) -> None:
    found = witness.judge(Activity(0.4, tensor=tensor), claimed, 1650.0, "fp8", H200, "s")
    if status == "nothing":
        assert found is None
    else:
        assert found is not None
        assert found.status is status
        assert f"{claimed:.0f} TFLOPS claimed" in found.message
