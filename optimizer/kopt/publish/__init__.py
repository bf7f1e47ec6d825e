"""A verified winner becomes one file that can be vendored, the evidence beside it, and an importable op."""
