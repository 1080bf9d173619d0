"""A decoder's process in; the same process out, which can read the videos it is handed and do little else.

A hole in a codec gives a video's author the decoder. Here is what that author then holds: no credential, one file at a time, a
bounded machine, and where the kernel can refuse the rest, no network, no other file and no other process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from teacher_cache.clips import landlock, seccomp
from teacher_cache.clips.video import Device

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")
_KEPT_ON_CUDA = ("CUDA_", "NVIDIA_")
_FILES = 64
"""Descriptors that a decoder may have open; it needs a dozen."""
_NO_NEW_PRIVS = 38
_THREADS = Path("/proc/self/task")


def environment(device: Device) -> dict[str, str]:
    """A decoder's whole environment: how to find programs, libraries and, on ``cuda``, the GPU. No credentials."""
    prefixes = _KEPT_ON_CUDA if device == "cuda" else ()
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(prefixes)}
    # One thread: Landlock restricts the thread that asks for it, and numpy's library would have started others by then.
    return kept | {"OPENBLAS_NUM_THREADS": "1"}


def command(program: str, *arguments: str) -> list[str]:
    """How to run a module with its arguments in another Python that finds the modules that this one finds.

    In ``PYTHONPATH`` this one's folders would come before the standard library's while Python itself starts.
    """
    start = f"import runpy, sys; sys.path[:] = sys.argv.pop().split('\\n'); runpy.run_module({program!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", start, *arguments, "\n".join(map(os.path.abspath, sys.path))]


def close(device: Device, libraries: Sequence[ModuleType], memory_bytes: int, cpu_seconds: int) -> tuple[str, ...]:
    """Take from this process, for good, what a decoder does not need. Returns the layers of protection that are not to be had.

    Limits are hard: a process cannot raise its own. There is none of the number of processes, which counts all of a user's, the
    other decoders' threads included; seccomp refuses new processes. On ``cuda`` neither Landlock nor seccomp is used, since the
    driver opens devices and connections at any time.
    """
    _limit(memory_bytes, cpu_seconds)
    layers = {
        "no_new_privs": _give_up_privileges(),
        "landlock": device == "cpu" and _is_alone() and landlock.restrict(_read_later(libraries)),
        "seccomp": device == "cpu" and sys.platform == "linux" and seccomp.restrict(),
    }
    return tuple(name for name, holds in layers.items() if not holds)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    bounds = {
        resource.RLIMIT_DATA: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, wanted in bounds.items():
        _, hard = resource.getrlimit(what)
        bound = hard if wanted == resource.RLIM_INFINITY else wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (bound, bound))


def _give_up_privileges() -> bool:
    """Neither this process nor a program that it starts gains rights, as by a set-user-id file. The other layers need it."""
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _is_alone() -> bool:
    """Whether this is the only thread of a process on Linux."""
    return _THREADS.is_dir() and len(list(_THREADS.iterdir())) == 1


def _read_later(libraries: Sequence[ModuleType]) -> Iterator[str]:
    """Folders of Python modules, some of which libraries import when they first need them."""
    yield sysconfig.get_path("stdlib")
    yield from (str(Path(library.__file__).parent) for library in libraries if library.__file__ is not None)
