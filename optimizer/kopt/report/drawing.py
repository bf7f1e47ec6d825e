"""Figures drawn in a process of their own, which is made ready while the run is still being read.

matplotlib takes longer to load than a page takes to write. Nothing heavy is imported here, so that both begin at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kopt.report.rows import Rows

Figures = tuple[Path, Path]
Draw = Callable[["Rows", Path, float | None], Callable[[], Figures]]
"""Begins to draw; what it returns waits for the files."""


@contextmanager
def beside() -> Iterator[Draw]:
    """Draw beside this process where that is safe and there is a core for it, else in it."""
    if sys.platform != "linux" or threading.active_count() > 1 or (os.cpu_count() or 1) < 2:
        yield here
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(_ready)
        yield lambda rows, folder, vendor: pool.submit(_draw, rows, folder, vendor).result


def here(rows: Rows, folder: Path, vendor: float | None) -> Callable[[], Figures]:
    return lambda: _draw(rows, folder, vendor)


def _ready() -> None:
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def _draw(rows: Rows, folder: Path, vendor: float | None) -> Figures:
    from kopt.report import figure

    return figure.draw(rows, folder, vendor)
