"""An object's URL in, a descriptor of its copy on this machine out. The copy has no name, so no death leaves it behind."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from platform import node
from typing import Any

from fsspec.callbacks import Callback

from schemas.errors import CouldNotRun
from teacher_cache.io.patience import patience_seconds
from teacher_cache.io.remote import filesystem, reach_if_there

_KEPT_BYTES, _KEPT_SHARE = 2**30, 0.1
"""So much of the temporary folder is left free, or this share of a small one: others write there too, and where a disk is full
Ray and Kubernetes end what runs there."""
_WAIT_SECONDS = 120.0
"""How long to wait for room, at most: other copies go as soon as they are read."""
_AGAIN_SECONDS = 2.0
_FULL = {errno.ENOSPC, errno.EDQUOT}


class NoRoom(CouldNotRun):
    """The temporary folder has no room for a copy."""


def local_copy(url: str) -> int | None:
    """A descriptor to read the copy from, which the caller closes. None if there is no such object.

    Waits for room in the temporary folder. Raises `NoRoom` if none comes; `Unreachable`.
    """
    return filled(lambda file: _fetch(url, file))


def filled(fill: Callable[[int], bool]) -> int | None:
    """A descriptor of a new file without a name, once ``fill`` has filled it; None if it says that there is nothing to copy.

    While ``fill`` raises `NoRoom`, it is called again with another file, for some time.
    """
    deadline = time.monotonic() + min(_WAIT_SECONDS, patience_seconds())
    while True:
        file = _nameless()
        try:
            if fill(file):
                os.lseek(file, 0, os.SEEK_SET)
                return file
        except NoRoom:
            os.close(file)
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)
        except BaseException:
            os.close(file)
            raise
        else:
            os.close(file)
            return None


def _nameless() -> int:
    """A new file in the temporary folder, for reading and writing, that goes when its last descriptor is closed."""
    with tempfile.TemporaryFile(prefix="teacher-cache-") as made:
        return os.dup(made.fileno())


def _fetch(url: str, file: int) -> bool:
    fs, path = filesystem(url)

    def copy() -> bool:
        try:
            fs.get_file(path, f"/proc/self/fd/{file}", callback=_Room(url))
        except OSError as error:
            if error.errno in _FULL:
                raise _no_room(url, None) from None
            raise
        return True

    return reach_if_there(url, copy) is not None


class _Room(Callback):  # type: ignore[misc]  # fsspec has no types
    """Is told an object's size before its first byte is written, without a request of its own.

    Stops the copy at the first bytes and not when it hears the size: only then does s3fs close the answer, and an answer left
    open keeps one of the connections that all copies share.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._refusal: NoRoom | None = None

    def set_size(self, size: Any) -> None:
        try:
            require_room(self._url, size or 0)
        except NoRoom as refusal:
            self._refusal = refusal

    def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002  # called by keyword, too
        if self._refusal:
            raise self._refusal


def require_room(url: str, size: int) -> None:
    """Raise `NoRoom` if the temporary folder has none for a copy of so many bytes."""
    folder = shutil.disk_usage(tempfile.gettempdir())
    if size > folder.free - min(_KEPT_BYTES, _KEPT_SHARE * folder.total):
        raise _no_room(url, size)


def write_all(url: str, file: int, data: bytes) -> None:
    """Write where a copy's descriptor stands. Raises `NoRoom` if there is none."""
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(url, None) from None
        raise


def _no_room(url: str, size: int | None) -> NoRoom:
    folder = tempfile.gettempdir()
    usage = shutil.disk_usage(folder)
    wanted = "" if size is None else f", which has {size / 1e6:.1f} MB"
    return NoRoom(
        f"{folder} on {node()} has no room for a copy of {url}{wanted}: {usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB "
        "are free, and a tenth, 1 GiB at most, is to stay so. Free some, set TMPDIR to a folder on a larger disk, or lower "
        "engine.decoders: each holds one video at a time."
    )
