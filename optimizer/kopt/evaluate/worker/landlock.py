"""The file system as an untrusted process sees it: a few readable trees, one writable one (landlock(7)).

Rights by version of the kernel's interface: 1 (Linux 5.13) paths, 2 renames between folders, 3 truncation, 4 TCP,
5 device ioctls, 6 signals and abstract sockets, 7 silence in the audit log. From 2 on it is used: Triton's cache
renames between folders, which version 1 cannot allow.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

from kopt.evaluate.worker.processes import prctl

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG, _RULE_PATH_BENEATH, _LOG_SAME_EXEC_OFF = 1, 1, 1
_PR_SET_NO_NEW_PRIVS = 38
MINIMUM = 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_READ = _READ_FILE | _READ_DIR
# No links, pipes, sockets or devices: whoever reads the folder later must find files and folders only.
_OWN = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's Landlock interface, 0 when there is none."""
    return max(0, int(_libc.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))))


def restrict(
    read: Iterable[str], write: Iterable[str], *, execute: bool = False, devices: Iterable[str] = (), tcp: bool = False
) -> None:
    """Leave this thread, and all it starts, only these paths; those that do not exist are passed over.

    `execute` lets programs below `read` be run. `devices` can be opened, written and sent any ioctl. Without `tcp` no
    TCP port can be bound or connected to (from version 4 on). OSError when the kernel has no Landlock of version 2.
    """
    offered = version()
    if offered < MINIMUM:
        raise OSError(errno.ENOSYS, f"Landlock {MINIMUM} is needed, the kernel has {offered}")
    handled = (1 << (13 + (offered >= 2) + (offered >= 3) + (offered >= 5))) - 1
    attributes = struct.pack("=QQQ", handled, 0 if tcp else 3, 3)  # both TCP rights; abstract sockets and signals
    size = 8 if offered < 4 else 16 if offered < 6 else 24
    ruleset = _call(_CREATE, attributes[:size], ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for paths, rights in (
            (read, _READ | (_EXECUTE if execute else 0)),
            (write, _OWN),
            (devices, _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV),
        ):
            for path in paths:
                with suppress(FileNotFoundError, PermissionError):
                    _allow(ruleset, path, rights & handled)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(_LOG_SAME_EXEC_OFF if offered >= 7 else 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights, fd)
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
