"""What stands between a candidate and the machine. Each wall can be chosen on its own; what a kernel lacks is named."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Walls:
    """The walls of one process."""

    address_space: int | None = 48 << 30
    file_size: int | None = 1 << 30
    open_files: int | None = 512
    cpu_seconds: int | None = None

    def up(self) -> dict[str, str]:
        for which, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, self.address_space),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_CPU, self.cpu_seconds),
        ):
            if value is not None:
                resource.setrlimit(which, (value, value))
        return {}


def probe() -> dict[str, str]:
    """Which walls this kernel offers: "up", or "missing: " and why."""
    return {"limits": "up"}
