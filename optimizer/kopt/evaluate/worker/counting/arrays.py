"""Arrays whose values do not matter: one element in memory, any shape, zero strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter
from triton.runtime.interpreter import TensorHandle

Array = np.ndarray[Any, np.dtype[Any]]

_ZEROS = bytes(16)


class Ghost(TensorHandle):  # type: ignore[misc]
    """A tensor whose values are unknown because they derive from data that was never read.

    Integer ghosts carry zero in the place of the unknown, so that an address built from one keeps the form of its tile.
    """


def flat(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A read-only array of zeros that occupies one element."""
    return np.ndarray(shape, dtype, buffer=_ZEROS, strides=(0,) * len(shape))


def spread(value: Array, shape: tuple[int, ...]) -> Array:
    """The first element of `value` at every place of `shape`, without copying it."""
    return np.ndarray(shape, value.dtype, buffer=value.flat[0].tobytes(), strides=(0,) * len(shape))


def is_flat(array: Array) -> bool:
    return array.size <= 1 or not any(array.strides)


def squeeze(array: Array) -> Array:
    """One element of a flat array, with the array's rank."""
    return array[(slice(0, 1),) * array.ndim]


def ghost(shape: tuple[int, ...], dtype: Any) -> Ghost:
    """A ghost of a triton scalar, block or pointer type."""
    return Ghost(flat(tuple(shape), interpreter._get_np_dtype(dtype)), dtype.scalar)


def known(handle: Any) -> bool:
    return not isinstance(handle, Ghost)
