"""The errors a user sees: one line that names the thing, the place and the mend, and an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What every kopt command returns to the shell."""

    DONE = 0
    KERNEL_FAILED = 1
    USAGE = 2
    MACHINE = 3
    """The machine cannot do it: no GPU for a measurement, no Triton on macOS."""
    HARNESS = 4


class KoptError(Exception):
    """Something kopt can explain. Its text is shown as it stands, without a traceback."""

    code = ExitCode.HARNESS


class UsageError(KoptError):
    """The caller asked for something that does not exist or does not fit."""

    code = ExitCode.USAGE


class MachineError(KoptError):
    """This machine lacks what the command needs."""

    code = ExitCode.MACHINE


class DeviceTaken(MachineError):
    """Somebody else measures or computes on the device: another time it can do what was asked."""


class HarnessError(KoptError):
    """kopt itself, or something beneath it (disk, fork, compiler installation), broke."""

    code = ExitCode.HARNESS


class RivalFailed(HarnessError):
    """The kernel that another was to be compared with did not hold up beside it; the text says how."""


class JudgeBroke(HarnessError):
    """The judge ended twice over one kernel, which may or may not have had a hand in it."""
