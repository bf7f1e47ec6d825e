"""Products and their peaks, what this machine is, and what it did while measuring."""
