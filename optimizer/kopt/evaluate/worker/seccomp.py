"""System calls that a process gives up for good, as a classic BPF program (seccomp(2), bpf(4)).

A list of what is denied, not of what is allowed: torch, Triton and CUDA use many calls and change them with every
release, and what must not happen (other processes, sockets, the rest of the machine) is a short list by comparison.
A denied call fails with EPERM, which Python shows as PermissionError at the line that asked for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from typing import Literal

from kopt.evaluate.worker.processes import prctl

Group = Literal["processes", "signals", "inspection", "sockets", "network", "sharing", "priority", "metadata", "kernel"]

# Call numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64). From 424 on all
# architectures agree. None: the architecture has no such call.
_COMMON = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
    "process_mrelease": 448, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467,
    "file_setattr": 469,
}  # fmt: skip

_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "clone": 56, "fork": 57, "vfork": 58, "execve": 59,
        "kill": 62, "semget": 64, "msgget": 68, "truncate": 76, "link": 86, "symlink": 88, "chmod": 90, "fchmod": 91,
        "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101, "syslog": 103, "setpgid": 109, "setsid": 112,
        "rt_sigqueueinfo": 129, "utime": 132, "mknod": 133, "personality": 135, "setpriority": 141,
        "sched_setparam": 142, "sched_setscheduler": 144, "modify_ldt": 154, "pivot_root": 155, "prctl": 157,
        "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167,
        "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
        "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
        "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "sched_setaffinity": 203,
        "clock_settime": 227, "tgkill": 234, "utimes": 235, "mq_open": 240, "kexec_load": 246, "add_key": 248,
        "request_key": 249, "keyctl": 250, "ioprio_set": 251, "migrate_pages": 256, "mknodat": 259, "fchownat": 260,
        "futimesat": 261, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272, "move_pages": 279,
        "utimensat": 280, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314,
        "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    },
    "aarch64": {
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "ioprio_set": 30, "mknodat": 33, "symlinkat": 36, "linkat": 37, "umount2": 39, "mount": 40, "pivot_root": 41,
        "truncate": 45, "chroot": 51, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "quotactl": 60,
        "utimensat": 88, "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105,
        "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "sched_setparam": 118,
        "sched_setscheduler": 119, "sched_setaffinity": 122, "kill": 129, "tkill": 130, "tgkill": 131,
        "rt_sigqueueinfo": 138, "setpriority": 140, "reboot": 142, "setpgid": 154, "setsid": 157, "sethostname": 161,
        "setdomainname": 162, "prctl": 167, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "msgget": 186,
        "semget": 190, "shmget": 194, "shmctl": 195, "shmat": 196, "socket": 198, "add_key": 217, "request_key": 218,
        "keyctl": 219, "clone": 220, "execve": 221, "swapon": 224, "swapoff": 225, "migrate_pages": 238,
        "move_pages": 239, "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "prlimit64": 261, "fanotify_init": 262,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "sched_setattr": 274,
        "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "kexec_file_load": 294,
    },
}  # fmt: skip

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_DENIED: Mapping[Group, str] = {
    # clone and clone3 have rules of their own: threads remain.
    "processes": "fork vfork execve execveat setsid setpgid",
    # kill, tgkill and the like are left for signals to oneself.
    "signals": "tkill pidfd_open pidfd_send_signal pidfd_getfd",
    "inspection": "ptrace process_vm_readv process_vm_writev kcmp perf_event_open process_madvise process_mrelease "
    "move_pages migrate_pages userfaultfd",
    "sockets": "socket",
    # Every socket but those of AF_UNIX, by a rule of its own.
    "network": "",
    # Memory that no process's resident set shows, and channels to other processes.
    "sharing": "memfd_create memfd_secret shmget shmat shmctl semget msgget mq_open",
    "priority": "setpriority ioprio_set",
    # Landlock does not cover these, and the owner of a file needs no capability for them.
    "metadata": "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr setxattrat "
    "removexattr lremovexattr fremovexattr removexattrat utime utimes futimesat utimensat truncate file_setattr "
    # A link leads whoever reads the folder later elsewhere.
    "link linkat symlink symlinkat",
    "kernel": "bpf mount umount2 move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr "
    "pivot_root chroot unshare setns io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl "
    "kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff settimeofday "
    "clock_settime clock_adjtime adjtimex sethostname setdomainname personality mknod mknodat quotactl quotactl_fd "
    "acct syslog iopl ioperm modify_ldt name_to_handle_at open_by_handle_at fanotify_init",
}

GROUPS: tuple[Group, ...] = tuple(_DENIED)

_OWN_PID_ONLY: Mapping[Group, str] = {
    "signals": "kill tgkill rt_sigqueueinfo rt_tgsigqueueinfo",
    "priority": "prlimit64 sched_setaffinity sched_setparam sched_setscheduler sched_setattr",
}
"""Calls whose first argument must be this process, or 0 where that means the caller."""

_CLONE_PARENT, _CLONE_THREAD = 0x8000, 0x10000
_AF_UNIX = 1
# PR_SET_PDEATHSIG, PR_SET_MM, PR_SET_CHILD_SUBREAPER, PR_SET_PTRACER: ways out of the fork server's care.
_PRCTL_DENIED = (1, 35, 36, 0x59616D61)

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|{JEQ,JGE,JSET}|K, BPF_RET|K
_NR, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data; both architectures are little-endian
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_ERRNO = 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


def deny(groups: Iterable[Group]) -> None:
    """Give up these groups of calls, for this thread and all it starts. OSError when the kernel or CPU has no filter.

    Implies no_new_privs. Signals to other processes are told apart by this process's number, so a process that is to
    fork must not deny "signals" before it does.
    """
    code = program(groups, os.getpid(), platform.machine())

    class _Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(code, len(code))
    filters = _Program(len(code) // 8, ctypes.addressof(buffer))
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters))


def program(groups: Iterable[Group], pid: int, machine: str) -> bytes:
    """The filter as `struct sock_filter[]`. OSError for a CPU whose call numbers are not known here."""
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    numbers = {**_COMMON, **_NUMBERS[machine]}
    groups = frozenset(groups)
    eperm, enosys = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    # Another architecture's calls have other numbers: none of this would hold.
    code = [_op(_LD, _ARCH), _op(_JEQ, _AUDIT_ARCH[machine], 1, 0), _op(_RET, _KILL_PROCESS), _op(_LD, _NR)]
    if machine == "x86_64":
        code += [_op(_JGE, 0x40000000, 0, 1), _op(_RET, enosys)]  # the x32 ABI, an alias of every call
    for group in GROUPS:
        if group in groups:
            for name in _DENIED[group].split():
                if name in numbers:
                    code += [_op(_JEQ, numbers[name], 0, 1), _op(_RET, eperm)]
            for name in _OWN_PID_ONLY.get(group, "").split():
                other = 0 if group == "priority" else pid
                own = [_op(_JEQ, pid, 2, 0), _op(_JEQ, other, 1, 0)]
                code += _on_argument(numbers[name], [*own, _op(_RET, eperm), _op(_RET, _ALLOW)])
    if "network" in groups:
        code += _on_argument(numbers["socket"], [_op(_JEQ, _AF_UNIX, 1, 0), _op(_RET, eperm), _op(_RET, _ALLOW)])
    if groups & {"processes", "inspection"}:
        # glibc falls back from clone3, whose flags no filter can read, to clone.
        code += [_op(_JEQ, numbers["clone3"], 0, 1), _op(_RET, enosys)]
        thread = [_op(_JSET, _CLONE_THREAD, 1, 0), _op(_RET, eperm), _op(_RET, _ALLOW)]
        # A child of the caller's parent is out of the caller's family.
        child = [_op(_JSET, _CLONE_PARENT, 0, 1), _op(_RET, eperm), _op(_RET, _ALLOW)]
        code += _on_argument(numbers["clone"], thread if "processes" in groups else child)
        tests = [_op(_JEQ, option, len(_PRCTL_DENIED) - i, 0) for i, option in enumerate(_PRCTL_DENIED)]
        code += _on_argument(numbers["prctl"], [*tests, _op(_RET, _ALLOW), _op(_RET, eperm)])
    return b"".join([*code, _op(_RET, _ALLOW)])


def _on_argument(number: int, body: list[bytes]) -> list[bytes]:
    """For one call, run `body`, which returns on every path, on the low half of its first argument."""
    return [_op(_JEQ, number, 0, len(body) + 1), _op(_LD, _ARG0), *body]


def _op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, k)
