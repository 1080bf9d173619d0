"""Ways to make a file or folder another's than this user's alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


def unsafe(folder: int, file: int) -> Mapping[str, Callable[[Path], None]]:
    """What is said of a path → how to make it so. ``folder`` and ``file`` are the modes of what others can write to."""

    def writable(path: Path) -> None:
        path.chmod(folder if path.is_dir() else file)

    return {"is writable by others": writable, "is owned by user 12345": _somebody_else_s, "is a link": _a_link}


def _somebody_else_s(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def _a_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name(f"{path.name}-elsewhere")))
