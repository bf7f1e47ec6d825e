"""Raises when imported."""

raise RuntimeError("not today")
