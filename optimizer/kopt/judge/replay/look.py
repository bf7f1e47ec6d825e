"""What the judge asks of a replayer: the time of a call's launches alone, and whether every launch has a part in it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kopt.evaluate import hooks as task_hooks
from kopt.evaluate.recipe import Recipe
from kopt.judge.arms import Arm
from kopt.judge.batches import Batches
from kopt.judge.crew import CANDIDATE, Rejected
from kopt.judge.deck import Call, Deck
from kopt.judge.numbers import impossible
from kopt.judge.plan import BATCH_US, Plan, Regime
from kopt.judge.replay import Material, Tensor, Unreplayable
from kopt.judge.replay.hired import Replaying
from kopt.judge.runners import RunnerFailed
from kopt.judge.series import Series
from kopt.machine.products import Product
from kopt.records import NO_DEVICE_TIME, Finding, Shape, Status, Task

if TYPE_CHECKING:
    from kopt.judge.bench import Bench

REPLAY = "replay"
_MOST_BATCHES = 3
_NOTICE = 30.0
_CALL_S = 5.0
_GHOSTS = 16
"""Launches that are left out one at a time."""
_APART = 0.05
"""Part by which the replayer's events and the judge's clock may differ, beyond the judge's own noise."""
_NOISE_US = 150.0
_LESS = 0.9
"""A call that takes this part of the time of its own launches did not make them."""


class Replays:
    """Looks at every shape of a job with one replayer, when the candidate is gone."""

    def __init__(
        self,
        bench: Bench,
        task: Task,
        hooks: ModuleType,
        batches: Batches,
        regime: Regime,
        plan: Plan,
        product: Product | None,
        material: Material,
        source: str,
    ) -> None:
        self._bench, self._task, self._hooks, self._batches = bench, task, hooks, batches
        self._regime, self._plan, self._product = regime, plan, product
        self._material, self._source = material, source
        self._measures = bench.backend.measures
        self._arm: Arm | None = None
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        """By shape: steps, microseconds, launches without a part."""
        self._parts: dict[tuple[str, int], dict[str, bool]] = {}
        """Of every launch, its kernel's first, second, ..., by shape: whether it has a part in the output."""

    def look(self, series: Mapping[str, Series], need: int) -> None:
        """Add device times and warnings to the series; Rejected when the launches have no part in the result.

        `need` is how many bytes an arm shares with the judge at most.
        """
        try:
            for one in series.values():
                self._shape(one, need)
            self._name_ghosts()
        finally:
            if self._arm is not None:
                self._arm.runner.kill()
                self._arm = None

    def _shape(self, series: Series, need: int) -> None:
        shape = series.shape
        found = self._material.of(shape.name)
        if found is None:
            return
        recipe, images = found
        if recipe.reason:
            self._cannot(series, recipe.reason)
            return
        if self._batches.time_left < _CALL_S:
            self._cannot(series, "no time was left")
            return
        try:
            self._replay(series, recipe, images, need)
        except Unreplayable as why:
            self._cannot(series, str(why))
        except RunnerFailed as failure:
            self._cannot(series, f"the launches alone fail: {failure.finding.message}")
            self._dismiss()
        except Rejected as wrong:
            if wrong.label != REPLAY:
                raise
            # Nothing against the candidate: its own calls were right. Something else than these launches made them so.
            self._cannot(series, f"the launches alone do not give the result: {wrong.finding.message}")

    def _replay(self, series: Series, recipe: Recipe, images: Mapping[str, str], need: int) -> None:
        shape = series.shape
        arm = self._arm or self._hire(need)
        runner = arm.runner
        assert isinstance(runner, Replaying)
        deck = arm.setup(self._task, self._hooks, shape, series.sizes.layout, self._bench.backend)
        arm.aside.go_on()  # it is spoken to without batches, too, and nobody else is timed meanwhile
        runner.follow(recipe, images, _NOTICE)
        host = median(series.host)
        batch_us = self._plan.batch_us or BATCH_US[self._regime]
        count = max(2, min(series.sizes.slots, round(batch_us / host)))
        times = []
        for _ in range(max(1, min(_MOST_BATCHES, self._plan.quads // 4))):
            # Drawn, rested and checked as for the candidate: a device that has worked less before is faster.
            calls = deck.deal(count)
            batch = self._batches.ask(arm, calls, mode="graph", rest=True, look="slice")
            arm.aside.go_on()
            if batch.calls == 0:
                raise Unreplayable("its launches cannot be captured in a CUDA graph")
            us = runner.elapsed_us(_CALL_S)
            self._believe(series, us, series.net(batch))
            times.append(us / count)
        self._plausible(series, times)
        if self._measures:
            series.device += times
        facts: dict[str, Any] = {"us": median(times), "steps": [step.name for step in recipe.steps]}
        self.facts[shape.name] = facts
        try:
            facts["idle"] = self._ghosts(shape, recipe, runner, deck, calls[0])
        except RunnerFailed:
            self._dismiss()  # what waits for a launch that was left out waits in vain: so it has a part
            facts["idle"] = []

    def _hire(self, need: int) -> Arm:
        # The candidate's memory: it is gone, and nobody else uses it.
        arena, fd, size = self._bench.arena(CANDIDATE, need)
        payload = {
            "task": self._task.model_dump(mode="json"),
            "source": None if self._measures else self._source,
            "parameters": {},
            "arena_bytes": size,
        }
        runner = Replaying(self._bench.zygote, self._bench.backend.name)
        self._arm = Arm(REPLAY, runner, arena)
        runner.awake(_NOTICE)
        runner.hire(REPLAY, payload, fd)
        runner.ready(_NOTICE)
        return self._arm

    def _dismiss(self) -> None:
        if self._arm is not None:
            self._arm.runner.kill()
            self._arm = None

    def _believe(self, series: Series, us: float, judged: float) -> None:
        """The events lie in a process that runs strangers' code on the device: the judge's own clock has to agree."""
        slack = _APART * judged + series.null_spread + _NOISE_US
        if self._measures and not judged - slack <= us <= judged + slack:
            raise Unreplayable(f"its events say {us:.0f} us where the judge's clock says {judged:.0f} us")

    def _plausible(self, series: Series, times: list[float]) -> None:
        if not self._measures:
            return
        shape, us, host = series.shape, median(times), median(series.host)
        if self._product is not None:
            cost = task_hooks.cost(self._task, shape)
            if finding := impossible(us, cost, self._product, self._task, shape):
                raise Rejected(finding)
        if host < _LESS * us:
            series.warnings.append(
                f"a call takes {host:.1f} us, its launches as traced {us:.1f} us: on the GPU it does something else"
            )

    def _ghosts(self, shape: Shape, recipe: Recipe, runner: Replaying, deck: Deck, call: Call) -> list[str]:
        """Names of the launches without which the output is the same; Rejected if those are all that multiply."""
        launches = [n for n, step in enumerate(recipe.steps) if step.cubin]
        whole = self._once(runner, deck, call, [])
        steady = self._same(whole, self._once(runner, deck, call, []))
        if not steady:
            return []  # what differs between two calls in full says nothing when something is left out
        idle = [n for n in launches[:_GHOSTS] if self._same(whole, self._once(runner, deck, call, [n]))]
        multiplying = [n for n in launches if recipe.steps[n].matrix]
        if (
            self._task.needs_mma(shape)
            and multiplying
            and self._same(whole, self._once(runner, deck, call, multiplying))
        ):
            message = "the launches with matrix instructions have no part in the result: it is the same without them"
            raise Rejected(Finding(rule="judge.ghost", message=message, status=Status.REJECTED, shape=shape.name))
        runner.omit([], _CALL_S)
        names = [step.name for step in recipe.steps]
        for n in launches[:_GHOSTS]:
            self._parts.setdefault((names[n], names[:n].count(names[n])), {})[shape.name] = n not in idle
        return [f"{recipe.steps[n].name} (launch {n + 1} of {len(recipe.steps)})" for n in idle]

    def _name_ghosts(self) -> None:
        """A launch without a part at one shape may have one at another, when inputs ask for it. At none is a ghost."""
        for (name, before), parts in self._parts.items():
            if not any(parts.values()):
                which = f"launch {before + 1} of {name}" if (name, 1) in self._parts else name
                where = f"at {next(iter(parts))}" if len(parts) == 1 else f"at any of {len(parts)} shapes"
                message = f"{which} could be left out: it does not change the output {where}"
                self.findings.append(Finding(rule="judge.ghost", message=message))

    def _once(self, runner: Replaying, deck: Deck, call: Call, without: list[int]) -> list[Tensor]:
        """The bytes of a call's outputs, on the inputs of the batch before, with some steps left out."""
        backend = self._bench.backend
        runner.omit(without, _CALL_S)
        slot = deck.slot(call)
        for out in deck.outputs.values():
            _bytes(out[slot]).random_(0, 256)
        runner.arm([call], "eager", _CALL_S)
        backend.synchronize()
        runner.alert(_CALL_S)
        runner.go()
        runner.done(_CALL_S)
        found = [_bytes(out[slot]).clone() for out in deck.outputs.values()]
        backend.synchronize()
        return found

    def _same(self, one: list[Tensor], other: list[Tensor]) -> bool:
        return all(bool((a == b).all()) for a, b in zip(one, other, strict=True))

    def _cannot(self, series: Series, why: str) -> None:
        if series.device:
            series.warnings.append(f"not replayable: {why}; the time on the device is that of its own CUDA graph")
        else:
            series.warnings.append(f"{NO_DEVICE_TIME}: not replayable: {why}")
        self.facts[series.shape.name] = {"reason": why}


def _bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor's memory."""
    import torch

    return tensor.view(-1).view(torch.uint8)
