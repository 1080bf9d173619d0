"""A lock file in, exclusive access out: one process at a time on one machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teacher_cache.io.private import open_private


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Wait for and hold a lock on a file, which is created. The system releases it when the process ends, however it ends.

    Raises what `open_private` raises.
    """
    with open_private(lock, os.O_WRONLY | os.O_CREAT) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
