"""A file or object and a range of its bytes in; those bytes out, by one request."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from schemas.errors import VideoError
from teacher_cache.clips.listing import split
from teacher_cache.io.bucket import BUCKETS, is_asked_for_as_it_is, shared_bucket
from teacher_cache.io.places import local_path, protocol
from teacher_cache.io.remote import filesystem, reach_if_there
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting


def opened_local(path: Path) -> int:
    """A descriptor of a file on this machine. Raises `VideoError` if there is none, or something else."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe, which is no file, would wait for its writer
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("video_missing", f"there is no file {path}") from None
    except OSError as error:
        raise VideoError("not_a_video", f"{path} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        hint = "; a folder of numbered pictures is named with a / at its end" if path.is_dir() else ""
        raise VideoError("not_a_video", f"{path} is not a file{hint}")
    return file


def read_part(uri: str, start: int, stop: int) -> tuple[bytes, int]:
    """Bytes [start, stop) of a file or object, fewer at its end, and its length; 0 if ``start`` is beyond that.

    Raises `VideoError` if it is not there; `Unreachable`.
    """
    local = local_path(uri)
    if local is not None:
        file = opened_local(local)
        try:
            return os.pread(file, stop - start, start), os.fstat(file).st_size
        finally:
            os.close(file)
    found = _from_bucket(uri, start, stop)
    if found is None:
        raise VideoError("video_missing", f"there is no object {uri}")
    return found


def _from_bucket(uri: str, start: int, stop: int) -> tuple[bytes, int] | None:
    if protocol(uri) in BUCKETS:
        place, key = split(uri)
        if is_asked_for_as_it_is(key):
            VIDEO_REQUESTS.add("get")
            return reach_if_there(uri, lambda: shared_bucket(place).get_part(key, start, stop))
    fs, path = filesystem(uri)  # many times slower

    def look() -> tuple[bytes, int]:
        length = int(fs.info(path)["size"])
        data: Any = fs.cat_file(path, start=start, end=min(stop, length)) if start < length else b""
        return bytes(data), length

    with counting(VIDEO_REQUESTS, fs, "get"):
        return reach_if_there(uri, look)
