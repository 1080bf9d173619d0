"""How the worker processes of a DataLoader end."""

from __future__ import annotations

import atexit
import os


def exit_at_once(_worker_id: int) -> None:
    """A ``worker_init_fn``: the worker ends without the interpreter's shutdown. It has nothing left to write by then.

    A spawned worker is a Python of its own. Some aborted in their shutdown (which library's thread does it was not found),
    and DataLoader reported them as killed.
    """
    atexit.register(os._exit, 0)  # handlers run last registered first, before threads are torn down
