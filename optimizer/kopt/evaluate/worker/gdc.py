"""In the interpreter a launch follows the one before: what programmatic dependent launch waits for has happened."""

from __future__ import annotations

import importlib

_NAMES = ("gdc_wait", "gdc_launch_dependents")


def install() -> None:
    """Before a candidate is imported. Elsewhere these are inline assembly, which the interpreter does not know."""
    for module in ("triton.language.extra.cuda", "triton.language.extra.cuda.gdc"):
        for name in _NAMES:
            setattr(importlib.import_module(module), name, _nothing)


def _nothing() -> None:
    pass
