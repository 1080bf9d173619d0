"""Folders in; a process that can read nothing else of the file system, write nowhere and reach no TCP port, out.

Landlock (Linux 5.13 and newer) restricts the calling thread, and what it starts, for good. It does not touch descriptors
that are open already. Interface: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_READ = 1 << 2 | 1 << 3
"""Reading a file, and listing a folder."""
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Version of Landlock → how many rights to files it knows, each a bit; later ones know no more."""
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_BOTH = 0b11
"""Of TCP: binding and connecting. Of scopes: abstract Unix sockets, and signals to processes outside."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrict(readable: Iterable[str]) -> bool:
    """Leave this thread the files in ``readable`` to read. False, with nothing changed, where the kernel lacks Landlock.

    Needs `no_new_privs`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    asked = _Ruleset(
        (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1,
        _BOTH if version >= _TCP_SINCE else 0,
        _BOTH if version >= _SCOPES_SINCE else 0,
    )
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(asked), ctypes.c_size_t(ctypes.sizeof(asked)), 0)
    if rules < 0:
        return False
    try:
        for folder in readable:
            _allow(libc, rules, folder)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, folder: str) -> None:
    at = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(_PathBeneath(_READ, at)), 0)
    finally:
        os.close(at)
