"""kopt: an autonomous loop that proposes, checks and measures GPU kernels and keeps the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kopt.evaluate.evaluator import Evaluator
    from kopt.publish.load import load

__all__ = ["Evaluator", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import kopt` and `kopt --help` stay free of torch and pydantic.
    if name == "Evaluator":
        from kopt.evaluate.evaluator import Evaluator

        return Evaluator
    if name == "load":
        from kopt.publish.load import load

        return load
    raise AttributeError(f"module 'kopt' has no attribute {name!r}")
