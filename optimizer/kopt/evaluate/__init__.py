"""Evaluation: cheap falsifiers first. Each stage is a small module with one entry point, `run(case, earlier)`."""

from __future__ import annotations

VERSION = 1
"""Version of the evaluator's rules; it rises when a verdict could change, and every verdict keeps the one that gave it."""
