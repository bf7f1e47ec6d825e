"""Kernels side by side: files, the published winner, the ladder's rungs and the vendor library, measured in turns."""
