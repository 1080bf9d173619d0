"""How the worker processes of a DataLoader begin and end."""

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
