"""The folder of this machine's disk in which what was fetched, made or found once is kept for whoever asks again.

It is ``$P4D_CACHE_DIR``, or ``p4d-cache`` in the user's cache folder. It may be deleted while nothing runs. What lies in it is
this user's alone, and is not used otherwise (`teacher_cache.io.private`).
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "P4D_CACHE_DIR"


def cache_folder() -> Path:
    """The folder, which may not be there yet."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "p4d-cache"
