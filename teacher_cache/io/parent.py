"""A process that is killed outright can stop nobody: each of its children looks for itself whether it still lives."""

from __future__ import annotations

import os
import time


def end_with_parent(parent: int) -> None:
    """Exit once the process that started this one is gone; for a thread of its own.

    A parent that is killed outright can stop nobody, so each of its children looks for itself.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
