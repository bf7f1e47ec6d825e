"""One side of a comparison, a runner with its own memory, and the one way in which a batch of calls is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

from kopt.judge.accuracy import Errors
from kopt.judge.aside import Aside
from kopt.judge.backends import JudgeSide, Sample, Tensor
from kopt.judge.deck import Call, Deck
from kopt.judge.layout import Layout
from kopt.judge.runners import Mode, Runner
from kopt.judge.snapshot import Look, Snapshot
from kopt.judge.stopwatch import Stopwatch
from kopt.records import Finding, Shape, Status, Task

_GRACE = 0.3
"""Seconds after which a wrong output is looked at again: late work is told apart from wrong work."""
_NOTICE = 30.0
_QUIET_S = 0.005
"""Seconds before a batch, where it is to rest, in which nothing runs at all: host and device then wake up alike."""


@dataclass(frozen=True)
class Batch:
    """What one batch showed. Times are of the judge's clock, microseconds."""

    us: float
    """From before the reveal to after the gather; of a null batch, without its work."""
    reveal_us: float
    """Of it, the reveal."""
    calls: int
    sample: Sample
    worked: float = 0.0
    """When the device's last heavy work for it ended, by the monotonic clock: calls, or the check of a whole one."""
    finding: Finding | None = None
    found: Snapshot | None = None
    """What it wrote, as far as it was looked at."""


@dataclass
class Arm:
    """A runner, the memory it shares with the judge, and the deck of the shape it is set up for."""

    label: str
    runner: Runner
    arena: Tensor
    deck: Deck | None = None
    errors: Errors = field(default_factory=Errors)
    """Of what it wrote since it was set up."""

    def __post_init__(self) -> None:
        self.aside = Aside(self.runner.pid)

    def setup(self, task: Task, hooks: ModuleType, shape: Shape, layout: Layout, backend: JudgeSide) -> Deck:
        # The old deck's private memory must be free before the new one's is asked for.
        self.deck, self.errors = None, Errors()
        self.deck = Deck(task, hooks, shape, layout, self.arena, backend.device)
        self.aside.go_on()
        self.runner.setup(layout, _NOTICE)
        self.aside.halt()
        return self.deck


def run(
    backend: JudgeSide,
    arm: Arm,
    calls: Sequence[Call],
    *,
    family: str,
    seconds: float,
    mode: Mode = "eager",
    rest: float = 0.0,
    worked: float = 0.0,
    heat: float = 0.0,
    like: Batch | None = None,
    look: Look = "whole",
    keep: bool = False,
    repeat: int = 1,
    count: bool = False,
    busy_us: float = 0.0,
    watch: Stopwatch,
) -> Batch | None:
    """Time one batch and check what it wrote; None when it cannot be captured in a graph.

    `seconds` is the deadline of each step. With a `rest`, so many seconds pass since the device `worked` hard, in the
    last of which it does nothing; what is drawn and looked at in between, memory-bound, does not warm it. `heat` is how
    long it is kept busy instead. RunnerFailed when the runner dies, hangs or gives up. A batch without calls is a null
    batch: the same steps around work of the runner's own for about `busy_us`; how long that was, by the device's clock,
    is the runner's to say and is taken off. `like` is an earlier batch of the same calls, whose inputs are given once
    more and whose places are looked at again. `look` says how closely. With `keep` the operands are those of the arm's
    last batch: for one that has nothing to gain from having seen them. The calls are made in turn `repeat` times, and
    with `count` the device's activity counters are watched meanwhile. `watch` is told what took how long.
    """
    deck, runner = arm.deck, arm.runner
    assert deck is not None
    with watch.on("arm"):
        if not runner.arm(calls, mode, seconds, repeat, busy_us):
            return None
    with watch.on("draw"):
        if like is None and calls and (deck.fresh or not keep):
            if deck.fresh:
                # The alert's call works on what was there before, and a kernel may trust offsets to be offsets.
                deck.draw(family, alike=True)
                deck.reveal()
            deck.draw(family)
        backend.synchronize()
    with watch.on("garble"):
        if calls:
            deck.garble()
        again = like.found if like else None
        secret = again.twin() if again else Snapshot.draw(deck, len(calls), every=look == "every")
        backend.synchronize()
    with watch.on("rest"):
        if rest:
            time.sleep(max(min(rest, _QUIET_S), worked + rest - time.monotonic()))
        if heat:
            backend.heat(heat)
    with watch.on("alert"):
        backend.watch(3 * seconds, count=count)
        runner.alert(seconds)
        backend.synchronize()
    with watch.on("window"):
        backend.start()
        deck.reveal()
        backend.mark()
        # Between GO and done nothing of the judge's is queued: contexts share the device in slices of milliseconds.
        backend.synchronize()
        began = time.perf_counter_ns()
        runner.go()
        runner.done(seconds)
        ended = time.perf_counter_ns()
        secret.take()
        reveal_us, us = backend.stop()
    if calls or busy_us:
        worked = time.monotonic()
    if not calls:
        us -= runner.spent_us()
    sample = replace(backend.sample(began, ended), load_s=heat + (ended - began) / 1e9)
    with watch.on("check"):
        finding = _examine(arm, secret, calls, family, look) if calls else None
    arm.errors.add(secret.rms, secret.slice_rms)
    if calls and look not in ("slices", "slice"):
        worked = time.monotonic()
    return Batch(us, reveal_us, len(calls) * repeat, sample, worked, finding, secret)


def _examine(arm: Arm, secret: Snapshot, calls: Sequence[Call], family: str, look: Look) -> Finding | None:
    deck = arm.deck
    assert deck is not None
    if name := deck.touched():
        return Finding(
            rule="judge.inputs",
            message=f"the {arm.label} wrote to its input {name}",
            status=Status.WRONG,
            shape=deck.shape.name,
        )
    wrong = secret.verify(calls, family, look)
    if wrong is None:
        if not secret.same(secret.again()):
            return _late(arm, "its outputs were still being written to after it said that it was done")
        return None
    time.sleep(_GRACE)
    if secret.again().verify(calls, family) is None:
        return _late(arm, "it said that it was done before its work was")
    return wrong


def _late(arm: Arm, what: str) -> Finding:
    shape = arm.deck.shape.name if arm.deck else ""
    return Finding(
        rule="judge.late", message=f"the {arm.label} answered early: {what}", status=Status.REJECTED, shape=shape
    )
