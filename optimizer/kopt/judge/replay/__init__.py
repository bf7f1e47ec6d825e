"""Recipe replay: what a call launches, launched again by a process in which the candidate's host code never runs.

The recipe (`kopt.evaluate.recipe`) comes from the trace, its cubins from a clean compilation. A replayer is a runner
like any other to the judge: it shares memory, is told calls, and its outputs are checked. It knows no secrets. Its own
events time the launches of a batch, which are one CUDA graph, so that no host code is in the number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kopt.evaluate.recipe import Recipe
from kopt.records.base import Record

Tensor = Any


class Unreplayable(Exception):
    """This recipe cannot be followed here; the text says why."""


class Material(Record):
    """All that a replayer needs for one source at one parameter point."""

    recipes: Mapping[str, Recipe] = {}
    """By shape."""
    images: Mapping[str, str] = {}
    """Cubins in base64, by SHA-256."""

    def replayable(self, shape: str) -> bool:
        return shape in self.recipes and not self.recipes[shape].reason

    def of(self, shape: str) -> tuple[Recipe, dict[str, str]] | None:
        """A shape's recipe and the images that it names; None when the call was not traced at that shape."""
        found = self.recipes.get(shape)
        return None if found is None else (found, {sha: self.images[sha] for sha in found.cubins})


class Follower(Protocol):
    """One recipe, ready to be followed."""

    omitted: frozenset[int]
    """Numbers of steps to leave out."""

    def __call__(self, *tensors: Tensor) -> None:
        """Follow it for one call with these arguments of the entry."""
        ...

    def reset(self) -> None:
        """Workspaces as they were before the first call."""
        ...


class Device(Protocol):
    """The replayer's way to launch and to time."""

    def follower(self, recipe: Recipe, images: Mapping[str, bytes], source: str | None) -> Follower:
        """Unreplayable when it cannot be followed here."""
        ...

    def timed(self, work: Callable[[], None]) -> Callable[[], None]:
        """The same work, timed."""
        ...

    def elapsed_us(self) -> float:
        """Of the last timed work, when it has finished."""
        ...


def device(backend: str, folder: Path) -> Device:
    """`folder` is the process's own."""
    if backend == "cuda":
        from kopt.judge.replay.cuda import CudaDevice

        return CudaDevice()
    from kopt.judge.replay.interpreted import InterpretedDevice

    return InterpretedDevice(folder)
