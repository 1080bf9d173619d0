"""A process in; the same process, whose system calls for networks, programs, other processes and changes to files fail, out.

The filter (Linux, x86-64 and Arm) lists what is refused, with EPERM: a codec needs none of it, and a list of what Python, the C
library and FFmpeg do need would break with their next release. Interface: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

_FILTER = 1
_FLAGS = 1 | 4
"""The filter holds for all threads, and does not slow the process by speculation barriers, as kernels before 5.16 would."""
_ALLOW = 0x7FFF0000
_REFUSE, _IS_UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # operations of classic BPF
_NUMBER_AT, _MACHINE_AT = 0, 4  # places in the kernel's `seccomp_data`, in bytes
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _Machine(NamedTuple):
    audit: int
    """The kernel's name of the machine."""
    column: int
    """In the tables below."""
    seccomp: int


_MACHINES = {"x86_64": _Machine(0xC000003E, 0, 317), "aarch64": _Machine(0xC00000B7, 1, 277)}

# System call: its number on x86-64 and on Arm, where it has one.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # networks and other processes' sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "kill": (62, 129),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272), "setrlimit": (160, 164), "prlimit64": (302, 261), "setpriority": (141, 140),
    # files: no changes, and no way to open one that is not looked at below
    "creat": (85, None), "openat2": (437, 437), "open_by_handle_at": (304, 265), "truncate": (76, 45), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    # what processes of one user share
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # the kernel's own doors
    "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "personality": (135, 92),
}  # fmt: skip
_OPEN, _OPENAT, _CLONE, _CLONE3, _TGKILL = (2, None), (257, 56), (56, 220), (435, 435), (234, 131)


def restrict() -> bool:
    """Refuse these system calls to all threads of the process. False, with nothing changed, where the kernel cannot.

    Needs `no_new_privs`.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = b"".join(_program(machine))
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return bool(ctypes.CDLL(None, use_errno=True).syscall(machine.seccomp, _FILTER, _FLAGS, header) == 0)


def _program(machine: _Machine) -> Iterator[bytes]:
    def number(call: tuple[int | None, int | None]) -> int | None:
        return call[machine.column]

    # A machine may run another's programs, and their calls have other numbers.
    yield _step(_LOAD, _MACHINE_AT) + _step(_EQUAL, machine.audit, if_so=1) + _step(_RETURN, _REFUSE)
    yield _step(_LOAD, _NUMBER_AT) + _step(_AT_LEAST, _X32, if_not=1) + _step(_RETURN, _REFUSE)
    for call in _REFUSED.values():
        yield from _answered(number(call), _step(_RETURN, _REFUSE))
    yield from _answered(number(_CLONE3), _step(_RETURN, _IS_UNKNOWN))  # its flags are in memory; the C library uses `clone`
    yield from _answered(number(_CLONE), _if(0, _ANY_BIT, _CLONE_THREAD, _ALLOW, _REFUSE))
    yield from _answered(number(_TGKILL), _if(0, _EQUAL, os.getpid(), _ALLOW, _REFUSE))  # `abort` raises its signal by it
    yield from _answered(number(_OPEN), _if(1, _ANY_BIT, _WRITES, _REFUSE, _ALLOW))
    yield from _answered(number(_OPENAT), _if(2, _ANY_BIT, _WRITES, _REFUSE, _ALLOW))
    yield _step(_RETURN, _ALLOW)


def _answered(number: int | None, answer: bytes) -> Iterator[bytes]:
    """The steps of ``answer``, which ends in a return, for the system call of that number."""
    if number is not None:
        yield _step(_EQUAL, number, if_not=len(answer) // 8) + answer


def _if(argument: int, operation: int, value: int, then: int, otherwise: int) -> bytes:
    """Return by the low half of a system call's argument."""
    low = 16 + 8 * argument
    return _step(_LOAD, low) + _step(operation, value, if_not=1) + _step(_RETURN, then) + _step(_RETURN, otherwise)


def _step(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """One BPF instruction; a comparison skips ``if_so`` instructions where it holds, ``if_not`` where it does not."""
    return struct.pack("=HBBI", operation, if_so, if_not, value)
