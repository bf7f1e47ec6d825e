"""One quad: opponent, candidate, candidate, opponent; void when the device was not itself throughout."""

from __future__ import annotations

import random
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from kopt.errors import DeviceTaken
from kopt.judge.arms import Arm
from kopt.judge.backends import JudgeSide, Sample
from kopt.judge.batches import Batches
from kopt.judge.crew import CANDIDATE, TRUSTED, Crew, Rejected
from kopt.judge.plan import Regime
from kopt.judge.series import Series
from kopt.judge.snapshot import Look
from kopt.judge.statistics import quad
from kopt.records import Finding, Status

_CLOCK_CHANGE = 0.01
_BUSY = 1.3
"""A witness this much slower than at rest: somebody else's work is on the device."""
_VOIDS = 4
"""Quads of a shape that a busy device, or a baseline gone wrong, may spoil before that ends the measurement."""
_NULLS = 3
"""More of them after a batch that took less."""
_SPOILT = "spoilt"
_UNSTEADY, _RAGGED = "the clock does not hold still within a quad", "batches of one quad differ by more than 4 %"
_APART = 0.04
"""A host that stalls for a millisecond adds a tenth to a batch of ten."""
_WHOLE = 8
"""One in so many of the candidate's batches, drawn in secret, has a call compared whole besides all slices; and one of
those that each of its processes makes at a shape for certain."""


class Quads:
    """Adds quads to series, with the crew's present members."""

    def __init__(
        self, backend: JudgeSide, crew: Crew, batches: Batches, regime: Regime, quads: int, closely: Look = "whole"
    ) -> None:
        """Takes the measure of the device at rest. `quads` is how many a shape is to have; `closely`: how one looks at
        the batches that are looked at more closely than others."""
        self._closely = closely
        # Of so many quads a shape, what makes one void. A clock that moves again will go on moving; hosts stall at
        # random. What comes back after that is put up with: a number that says so is worth more than none.
        self._patience = {_UNSTEADY: 1, _RAGGED: max(3, quads)}
        self._backend, self._crew, self._batches, self._regime = backend, crew, batches, regime
        self._resting = backend.witness()
        self._due = 0
        """Batches of the candidate that come before the one that is looked at whole in any case; -1: there is none."""

    def begin(self, batches: int) -> None:
        """Before the first quad of a shape and process: one of so many of the candidate's batches, which it makes at
        least, is looked at whole for certain; of 0, none."""
        self._due = secrets.randbelow(batches) if batches else -1

    def add(self, series: Series, opponent: Arm | None, most: int) -> None:
        """One more, or a void one, of at most so many calls a batch; without an opponent, a single batch.

        Rejected when the candidate's outputs are wrong, or the device stays busy.
        """
        candidate = self._crew[CANDIDATE]
        calls = most - random.randrange(max(1, most // 8))
        order = (opponent, candidate, candidate, opponent) if opponent else (candidate,)
        times: dict[str, list[float]] = defaultdict(list)
        samples: dict[str, list[Sample]] = defaultdict(list)
        disturbed = False
        if len(series.host) % 4 == 2:
            # Every second quad: a null batch is the device's and the trusted runner's, and changes slowly.
            series.nulls.append(self._batches.null())
        for number, arm in enumerate(order):
            assert arm is not None
            assert arm.deck is not None
            # The baseline has nothing to gain from operands that it has seen: they serve for both of its batches.
            kept = number == 3 and arm.label == TRUSTED
            try:
                batch = self._batches.ask(arm, arm.deck.deal(calls), rest=True, look=self._look(arm), keep=kept)
            except Rejected as wrong:
                if wrong.label == CANDIDATE or series.uneven[_SPOILT] >= _VOIDS:
                    raise
                # It was right before: somebody may have had a hand in its memory.
                series.uneven[_SPOILT] += 1
                series.void += 1
                return
            times[arm.label].append(series.per_call(batch))
            samples[arm.label].append(batch.sample)
            disturbed = disturbed or self._backend.witness() > _BUSY * self._resting > 0
        if disturbed:
            series.uneven[_SPOILT] += 1
            series.void += 1
            if series.uneven[_SPOILT] >= _VOIDS:
                raise Rejected(self._busy())
            return
        if none := next((label for label in times if min(times[label]) <= 0), ""):
            series.void += 1
            series.nulls += [self._batches.null() for _ in range(_NULLS)]  # lest it be those that were delayed
            series.discard(none)
            return
        # Under sustained load the power limit always moves the device.
        steady = self._regime == "sustained" or not self._backend.measures
        if not steady and (why := uneven(samples, times)) and self._again(series, why):
            return
        series.host += times[CANDIDATE]
        series.samples += [sample for of in samples.values() for sample in of]
        series.calls += calls * 2
        if opponent is not None:
            series.rival += times[opponent.label]
            series.logs.append(quad(times[CANDIDATE], times[opponent.label]))

    def _look(self, arm: Arm) -> Look:
        """How closely the outputs of a batch are looked at. The baseline's, which nobody else can reach, the least."""
        if arm.label == TRUSTED:
            return "slice"
        due = arm.label == CANDIDATE and self._due == 0
        self._due -= arm.label == CANDIDATE
        return self._closely if due or not secrets.randbelow(_WHOLE) else "slices"

    def _again(self, series: Series, why: str) -> bool:
        """Whether a quad is void for this; where it has been before, the series says so."""
        series.uneven[why] += 1
        if series.uneven[why] <= self._patience[why]:
            series.void += 1
            return True
        series.warnings = [w for w in series.warnings if w != why] + [why]
        return False

    def _busy(self) -> Finding:
        # Is it the candidate's work, or a stranger's?
        self._crew.dismiss(CANDIDATE)
        time.sleep(0.5)
        if self._backend.witness() > _BUSY * self._resting:
            raise DeviceTaken("the GPU is busy with somebody else's work; wait for it, or name another with --gpu")
        message = "the kernel leaves work running on the device after it said that it was done"
        return Finding(rule="judge.busy", message=message, status=Status.REJECTED)


def uneven(samples: Mapping[str, Sequence[Sample]], times: Mapping[str, Sequence[float]]) -> str:
    """How device or host changed their pace within a quad, or "". By arm: what was sampled, and microseconds.

    A reason to throttle favours an arm where the other met it in every batch and it in none: large products meet the
    power cap within milliseconds, in one batch and not in the next.
    """
    clocks = [s.clock_mhz for of in samples.values() for s in of if s.clock_mhz]
    changed = bool(clocks) and max(clocks) / min(clocks) > 1 + _CLOCK_CHANGE
    met = [[frozenset(s.throttle) for s in of] for of in samples.values()]
    if changed or any(frozenset.intersection(*a) - frozenset.union(*b) for a in met for b in met):
        return _UNSTEADY
    return _RAGGED if any(max(of) > (1 + _APART) * min(of) for of in times.values()) else ""
