"""Imports a candidate inside an untrusted child, and says in one line with a place why it cannot be imported."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Literal

MODULE = "kopt_candidate"
"""The name a candidate is imported under in all processes, so that it cannot tell by it which one it is in."""
FILE = "kernel.py"
"""What its file is called, likewise."""

Kind = Literal["syntax", "import", "entry"]


class CandidateError(Exception):
    """The candidate cannot be imported. `facts` reaches the driver as `Reply.value`."""

    def __init__(self, kind: Kind, message: str, file: Path, line: int | None = None) -> None:
        super().__init__(f"{message} ({file.name}:{line})" if line else f"{message} ({file.name})")
        self.facts = {"kind": kind, "message": message, "line": line}


def load(path: Path, entry: str) -> ModuleType:
    """Import a kernel file from its folder, so that tracebacks and Triton's source lookups show its own lines.

    CandidateError: "syntax" when it does not parse, "import" when its top level raises, "entry" when it defines no
    function of that name. SystemExit and MemoryError pass through.
    """
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not named like a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        # One raised while the file runs (by an exec or an import within) has a frame in it; the file's own has none.
        line = error.lineno if error.filename == str(path) else _line(error, path)
        raise CandidateError("syntax", f"syntax error: {error.msg}", path, line) from error
    except MemoryError:
        raise
    except Exception as error:
        if (line := _line(error, path)) is None:  # not one frame in the file: it never began to run
            raise CandidateError("syntax", f"not Python: {error}", path) from error
        raise CandidateError("import", f"{type(error).__name__}: {error}", path, line) from error
    if not callable(getattr(module, entry, None)):
        raise CandidateError("entry", f"defines no function {entry}()", path)
    return module


def _line(error: BaseException, path: Path) -> int | None:
    """The line of the file that was running when it raised; None when none was."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
