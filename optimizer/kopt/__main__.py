"""`python -m kopt` is `kopt`."""

from __future__ import annotations

from kopt.cli.app import main

if __name__ == "__main__":
    main()
