"""Where the user's folders are. Apart from content.py, because naming a folder must not cost loading the records."""

from __future__ import annotations

from pathlib import Path

from kopt.errors import UsageError

MARKER = "kopt.toml"
"""The file that makes a folder a workspace."""


def workspace(explicit: Path | None = None) -> Path:
    """`explicit`, else the nearest folder upwards with a kopt.toml, else the current one; absolute."""
    if explicit is not None:
        if not explicit.is_dir():
            raise UsageError(f"workspace {explicit} is not a folder; name one, or make it with `kopt init {explicit}`")
        return explicit.resolve()
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder is gone; change to another, or name one with --workspace") from None
    return next((folder for folder in (here, *here.parents) if (folder / MARKER).is_file()), here)
