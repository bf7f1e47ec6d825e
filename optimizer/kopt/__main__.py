"""The command `kopt`, which `python -m kopt` is too."""

from __future__ import annotations

import sys


def main() -> None:
    """As `cli.app.main`; a Ctrl-C that comes before that is there to answer it ends the same way."""
    try:
        from kopt.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
