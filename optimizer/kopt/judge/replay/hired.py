"""A replayer as the judge sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kopt.evaluate.recipe import Recipe
from kopt.judge.replay import Unreplayable
from kopt.judge.runners import Runner, said
from kopt.records import Status


class Replaying(Runner):
    """A runner that takes recipes. Everything else that it is told, it is told like any other."""

    job = "kopt.judge.replay.process:serve"

    def follow(self, recipe: Recipe, images: Mapping[str, str], seconds: float) -> None:
        """What a call does from now on; Unreplayable when that cannot be done here."""
        self._tell({"op": "recipe", "recipe": recipe.model_dump(mode="json"), "images": dict(images)})
        answer = self._expect("replayable", seconds, "take the recipe")
        if answer["replayable"] != "":
            raise Unreplayable(said(answer, "replayable"))

    def omit(self, steps: Sequence[int], seconds: float) -> None:
        """Leave these out, with workspaces as they were at first."""
        self._tell({"op": "omit", "steps": list(steps)})
        self._expect("omitted", seconds, "leave steps out")

    def elapsed_us(self, seconds: float) -> float:
        """What its own events say of the last batch of mode "graph"."""
        self._tell({"op": "elapsed"})
        us = self._expect("elapsed_us", seconds, "read its events")["elapsed_us"]
        if not isinstance(us, float) or not 0 < us < math.inf:
            raise self._fail(Status.CRASHED, "judge.protocol", "says that its work took no time that there is")
        return us
