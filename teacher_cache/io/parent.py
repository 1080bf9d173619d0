"""A parent's process id in; the child's exit once that parent is gone."""

from __future__ import annotations

import os
import time


def end_with_parent(parent: int) -> None:
    """Exit this process once its parent is gone. Run it in a thread of its own.

    A parent killed by SIGKILL cannot stop its children, so each child polls.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
