"""Where kernels run. A backend is two halves: the judge's, which owns memory and clock, and the runner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kopt.errors import UsageError

Tensor = Any
"""torch.Tensor, which this package imports only where it runs."""

BackendName = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Sample:
    """What the device says of itself during one batch; None for what it does not report."""

    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: tuple[str, ...] = ()
    readings: int = 0
    """Taken while the batch ran; 0 for a single one after it."""
    load_s: float = 0.0
    """Seconds of unbroken work before the batch's end: drivers publish averages."""


@dataclass(frozen=True)
class Activity:
    """What the device's own counters saw of its units, as fractions of the time; None for what it does not count."""

    seconds: float
    tensor: float | None = None
    sm: float | None = None
    occupancy: float | None = None
    dram: float | None = None


class JudgeSide(Protocol):
    """Memory, clock and telemetry in the trusted process. Nothing touches the device before `open`."""

    name: str
    device: str
    """For torch: "cuda" or "cpu"."""
    sharing: str
    """How memory reaches a runner, in words."""
    measures: bool
    """Whether its times may be called utilization."""
    cache_bytes: int
    """Of the last-level cache that repeated calls could live in."""
    max_clock_mhz: float | None

    def identity(self) -> str:
        """Names the device for the lock: one judge per device."""
        ...

    def open(self) -> None:
        """Initialise the device; MachineError when it is not there or not fit to measure on."""
        ...

    def share(self, nbytes: int) -> tuple[Tensor, int]:
        """A uint8 tensor over memory of its own, and a descriptor that `RunnerSide.attach` takes."""
        ...

    def release(self, shared: Tensor) -> None:
        """Give back what `share` gave, when no runner maps it any more."""
        ...

    def free_bytes(self) -> int: ...

    def own_bytes(self) -> int:
        """Held by this process in tensors of its own, what it shares apart."""
        ...

    def synchronize(self) -> None: ...

    def start(self) -> None:
        """Start the clock, in order with the device's work."""
        ...

    def mark(self) -> None:
        """Note the time at which what was queued by now is done."""
        ...

    def stop(self) -> tuple[float, float]:
        """Microseconds from `start` to `mark`, and to now, when all work queued by this process has finished."""
        ...

    def watch(self, seconds: float, *, count: bool = False) -> None:
        """Look at the device from now on, for so long at most; with `count` at its activity counters too."""
        ...

    def sample(self, since: int, until: int) -> Sample:
        """What was seen in between, by `time.perf_counter_ns`; ends the watch."""
        ...

    def activity(self) -> Activity | None:
        """What the counters showed in the window last sampled; None where they were not asked for or show nothing."""
        ...

    def telemetry(self) -> Mapping[str, str]:
        """What can be looked at while a batch runs, by name: "up" or why not."""
        ...

    def witness(self) -> float:
        """Microseconds of a fixed piece of work of the judge's own: long if somebody else works on the device."""
        ...

    def heat(self, seconds: float) -> None:
        """Keep the device at work of the judge's own, so that what follows starts under load."""
        ...

    def close(self) -> None: ...


class RunnerSide(Protocol):
    """What the process beside the kernel needs. It runs in untrusted hands; nothing it says is evidence."""

    device: str
    refusal: str
    """Why the last capture was refused, a line."""

    def wake(self) -> None:
        """Initialise the device for this process."""
        ...

    def attach(self, fd: int, nbytes: int) -> Tensor: ...

    def touch(self) -> None:
        """The least piece of device work, waited for: wakes the context."""
        ...

    def busy(self, us: float) -> Callable[[], float]:
        """Queue work for about so many microseconds, what a null batch does; the answer tells, once that is over, how
        many it was, by the device's own clock."""
        ...

    def settle(self) -> None:
        """Wait for what was called, as its caller would: for the current stream. What a kernel leaves running elsewhere
        is its own affair, and seen by the judge."""
        ...

    def synchronize(self) -> None: ...

    def capture(self, calls: Callable[[], None]) -> Callable[[], None] | None:
        """A replay of the calls without their host code, or None where there is no such thing or it refuses."""
        ...


def judge_side(name: str, device: str) -> JudgeSide:
    """`device` is an index or UUID of a GPU; for the CPU any word, which then names the lock."""
    if name == "cuda":
        from kopt.judge.backends.cuda import CudaJudge

        return CudaJudge(device)
    if name == "cpu":
        from kopt.judge.backends.cpu import CpuJudge

        return CpuJudge(device)
    raise UsageError(f"unknown backend {name!r}; kopt has cuda and cpu")


def runner_side(name: str) -> RunnerSide:
    if name == "cuda":
        from kopt.judge.backends.cuda import CudaRunner

        return CudaRunner()
    from kopt.judge.backends.cpu import CpuRunner

    return CpuRunner()
