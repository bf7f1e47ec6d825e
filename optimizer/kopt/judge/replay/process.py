"""The process that follows recipes: a runner whose entry is a recipe. It holds no secrets and imports no candidate.

What it launches was written by strangers all the same, so it works behind a runner's walls, and its outputs are checked
by the judge like a runner's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kopt.evaluate.recipe import Recipe
from kopt.judge.replay import Follower, Unreplayable, device
from kopt.judge.runner import Entry, Serving, attend
from kopt.records import Task


def serve(payload: dict[str, Any], folder: Path, ask: object) -> dict[str, Any]:
    """A job of the fork server: serve one judge until it hangs up."""
    attend(Replayer, payload, folder)
    return {}


class Replayer(Serving):
    """Takes a recipe with {"op": "recipe"}, leaves steps out with "omit", tells its events' time with "elapsed"."""

    def entry(self, folder: Path, task: Task) -> Entry:
        self._device = device(self._payload["backend"], folder)
        self._follower: Follower | None = None
        return self._follow

    def obey(self) -> bool:
        message = self.receive()
        if message["op"] == "recipe":
            self._stage = "recipe"
            images = {sha: base64.b64decode(text) for sha, text in message["images"].items()}
            self._follower = None  # its workspaces make room for the next one's
            try:
                recipe = Recipe.model_validate(message["recipe"])
                self._follower = self._device.follower(recipe, images, self._payload["source"])
                self.send({"replayable": ""})
            except Unreplayable as why:
                self.send({"replayable": str(why)[:300]})
        elif message["op"] == "omit":
            assert self._follower is not None
            self._follower.omitted = frozenset(message["steps"])
            self._follower.reset()
            self.send({"omitted": True})
        elif message["op"] == "elapsed":
            self.send({"elapsed_us": self._device.elapsed_us()})
        else:
            return self.act(message)
        return True

    def capture(self, calls: Callable[[], None]) -> Callable[[], None] | None:
        """The same, timed."""
        work = super().capture(calls)
        return None if work is None else self._device.timed(work)

    def _follow(self, *tensors: Any) -> None:
        assert self._follower is not None
        self._follower(*tensors)
