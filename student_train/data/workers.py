"""How many worker processes a DataLoader has, and how they begin and end."""

from __future__ import annotations

import atexit
import os

from teacher_cache.io.console import escape_standard_error


def begin_worker(_worker_id: int) -> None:
    """A ``worker_init_fn``: libraries' messages are escaped, as in the command, and the worker ends without the interpreter's
    shutdown. It has nothing left to write by then.

    A spawned worker is a Python of its own. Some aborted in their shutdown (which library's thread does it was not found),
    and DataLoader reported them as killed.
    """
    escape_standard_error()
    atexit.register(os._exit, 0)  # handlers run last registered first, before threads are torn down


MOST_WORKERS = 4
"""Each has a decoder and caches frames; more would seldom be read faster."""


def workers_here(cores: int, local_processes: int) -> int:
    """How many workers each of a machine's training processes has by default: its share of the cores, less its own."""
    return max(0, min(MOST_WORKERS, cores // local_processes - 1))


def workers_of(given: int | None) -> int:
    """The workers that a config gives this process, or the default here."""
    if given is not None:
        return given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers_here(cores, local_processes())


def local_processes() -> int:
    """How many training processes torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
