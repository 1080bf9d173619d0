"""A path in; a folder or file of this user's alone out, or why it is none. For caches: whoever reads them believes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(PermissionError):
    """Somebody else owns a file or folder, or may write to it, or it is a link. The message says so of a path."""


def private_folder(folder: Path) -> Path:
    """Make the folder, for this user alone, unless it is there. Raises what `require_private` raises, and `OSError`."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    require_private(folder)
    return folder


def require_private(folder: Path) -> None:
    """Raise `NotPrivate` unless this user owns the folder and nobody else may write to it; `OSError` if there is none."""
    about = folder.lstat()
    if stat.S_ISREG(about.st_mode):
        raise NotADirectoryError(20, "Not a directory", str(folder))
    _require(folder, about, stat.S_ISDIR, "folder")


def open_private(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a file, which is made for this user alone if ``flags`` say that it may be. Follows no link.

    Raises `NotPrivate` for a file that somebody else owns or may write to, and `OSError`.
    """
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _require(path, os.fstat(file), stat.S_ISREG, "file")
        return os.fdopen(file, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb")
    except BaseException:
        os.close(file)
        raise


def _require(path: Path, about: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> None:
    if stat.S_ISLNK(about.st_mode):
        raise NotPrivate(f"{path} is a link")
    if not is_kind(about.st_mode):
        raise NotPrivate(f"{path} is no {kind}")
    if about.st_uid != os.geteuid():
        raise NotPrivate(f"{path} is owned by user {about.st_uid}, and this process is user {os.geteuid()}")
    if about.st_mode & _WRITABLE_BY_OTHERS:
        raise NotPrivate(f"{path} is writable by others (mode {stat.S_IMODE(about.st_mode):o})")
