"""Evaluation: cheap falsifiers first. Each stage is a small module with one entry point, `run(case, earlier)`."""

from __future__ import annotations

VERSION = 9
"""Version of the rules. It rises when a verdict could change; every verdict keeps the one that gave it."""
