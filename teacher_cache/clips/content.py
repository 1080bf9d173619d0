"""A video's URI in; a digest of its content, or a descriptor to read it from, out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import VideoError
from teacher_cache.io.local_copy import local_copy
from teacher_cache.io.places import local_path
from teacher_cache.io.remote import filesystem, reach_if_there
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

_BLOCK = 64 * 1024


def content_digest(uri: str) -> str | None:
    """``sampled-sha256:<hex>`` over a file's length and its first, middle and last 64 KiB; None if there is no such file.

    For something other than a file, such as a folder or a pipe, it is the digest of an empty file; opening it will then fail
    with the reason.

    Hashing whole files would take longer than teaching them. Length and three blocks distinguish any two videos that
    encoders produce; a file edited by hand outside these blocks is not noticed.
    """
    fs, path = filesystem(uri)

    def look() -> tuple[int, list[bytes]]:
        info = fs.info(path)
        length = int(info["size"]) if info["type"] == "file" else 0
        return length, [fs.cat_file(path, start=start, end=stop) for start, stop in _sampled(length)]

    with counting(VIDEO_REQUESTS, fs):
        found = reach_if_there(uri, look)
    if found is None:
        return None
    length, blocks = found
    digest = hashlib.sha256(length.to_bytes(8, "little"))
    for block in blocks:
        digest.update(block)
    return f"sampled-sha256:{digest.hexdigest()}"


def _sampled(length: int) -> list[tuple[int, int]]:
    """Half-open byte ranges to hash, for a file of that length; all of a short file."""
    if length <= 3 * _BLOCK:
        return [(0, length)] if length else []
    return [(start, start + _BLOCK) for start in (0, (length - _BLOCK) // 2, length - _BLOCK)]


@contextlib.contextmanager
def opened_file(uri: str) -> Iterator[int]:
    """A descriptor to read the video from; a remote one is copied to this machine first. Raises `VideoError`, `Unreachable`;
    `NoRoom` if this machine's temporary folder is full.
    """
    local = local_path(uri)
    file = _copied(uri) if local is None else _found(local)
    try:
        yield file
    finally:
        os.close(file)


def _copied(uri: str) -> int:
    with counting(VIDEO_REQUESTS, filesystem(uri)[0], "get"):
        file = local_copy(uri)
    if file is None:
        raise VideoError("video_missing", f"there is no object {uri}")
    return file


def _found(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe, which is no file, would wait for its writer
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("video_missing", f"there is no file {path}") from None
    except OSError as error:
        raise VideoError("not_a_video", f"{path} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise VideoError("not_a_video", f"{path} is not a file")
    return file
