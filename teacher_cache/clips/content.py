"""A video's URI in; a digest of its content, its length, or a descriptor to read it from, out."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from schemas.errors import VideoError
from teacher_cache.clips.pictures import listed_pictures, packed, pictures_digest
from teacher_cache.clips.ranges import opened_local, read_part
from teacher_cache.io.local_copy import filled, local_copy, require_room, write_all
from teacher_cache.io.places import Member, inside, local_path
from teacher_cache.io.remote import filesystem, reach_if_there
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

_BLOCK = 64 * 1024
_PIECE = 2**24
"""Bytes of a member that are fetched at once."""


def content_digest(uri: str) -> str | None:
    """``sampled-sha256:<hex>`` over a file's length and its first, middle and last 64 KiB; None if there is no such file.

    For something other than a file, such as a folder or a pipe, it is the digest of an empty file; opening it will then fail
    with the reason.

    Hashing whole files would take longer than teaching them. Length and three blocks distinguish any two videos that
    encoders produce; a file edited by hand outside these blocks is not noticed.

    After that of a member of a tar comes where it lies: a row leads there.
    """
    part = inside(uri)
    if part and not isinstance(part, Member):
        return pictures_digest(part)
    fs, path = filesystem(part.place if part else uri)

    def look() -> tuple[int, list[bytes]]:
        if part:
            first, length = part.start, part.size
        else:
            info = _info(fs, path)
            first, length = 0, int(info["size"]) if info["type"] == "file" else 0
        return length, [fs.cat_file(path, start=first + start, end=first + stop) for start, stop in _sampled(length)]

    with counting(VIDEO_REQUESTS, fs):
        found = reach_if_there(uri, look)
    if found is None:
        return None
    length, blocks = found
    digest = hashlib.sha256(length.to_bytes(8, "little"))
    for block in blocks:
        digest.update(block)
    return f"sampled-sha256:{digest.hexdigest()}" + (f"@{part.start}+{part.size}" if part else "")


def _info(fs: Any, path: str) -> dict[str, Any]:
    """What a filesystem says of a file. Raises `FileNotFoundError` also for a path that no file could have."""
    try:
        found: dict[str, Any] = fs.info(path)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}:
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        raise
    return found


def _sampled(length: int) -> list[tuple[int, int]]:
    """Half-open byte ranges to hash, for a file of that length; all of a short file."""
    if length <= 3 * _BLOCK:
        return [(0, length)] if length else []
    return [(start, start + _BLOCK) for start in (0, (length - _BLOCK) // 2, length - _BLOCK)]


def length_of(uri: str) -> int:
    """Bytes of a video; 0 if it is not there. Raises `Unreachable`."""
    part = inside(uri)
    if isinstance(part, Member):
        return part.size
    if part:
        return sum(picture.size for picture in listed_pictures(part.place) or ())
    fs, path = filesystem(uri)
    return reach_if_there(uri, lambda: int(fs.info(path)["size"])) or 0


@contextlib.contextmanager
def opened_file(uri: str) -> Iterator[int]:
    """A descriptor to read the video from; a remote one is copied to this machine first, and so is a member of a tar, and a
    folder of pictures, as `teacher_cache.clips.pictures` packs it.

    Raises `VideoError`, `Unreachable`; `NoRoom` if this machine's temporary folder is full.
    """
    file = _file(uri)
    try:
        yield file
    finally:
        os.close(file)


def _file(uri: str) -> int:
    part, local = inside(uri), local_path(uri)
    if isinstance(part, Member):
        return _copied_member(part)
    if part:
        return packed(part)
    if uri.endswith(".tar"):
        read_part(uri, 0, 1)  # raises if it is not there
        raise VideoError("not_a_video", "a tar whose members could not be listed; `plan` and `run` say why")
    return _copied(uri) if local is None else opened_local(local)


def _copied(uri: str) -> int:
    with counting(VIDEO_REQUESTS, filesystem(uri)[0], "get"):
        file = local_copy(uri)
    if file is None:
        raise VideoError("video_missing", f"there is no object {uri}")
    return file


def _copied_member(member: Member) -> int:
    def fill(file: int) -> bool:
        at, stop = member.start - tarfile.BLOCKSIZE, member.start + member.size
        while at < stop:
            data, length = read_part(member.place, at, min(at + _PIECE, stop))
            if length < stop:
                raise _moved(member, f"it has {length} bytes")
            if at < member.start:
                _require_header(member, data[: tarfile.BLOCKSIZE])
                require_room(member.uri, member.size)
                data, at = data[tarfile.BLOCKSIZE :], member.start
            write_all(member.uri, file, data)
            at += len(data)
        return True

    file = filled(fill)
    assert file is not None
    return file


def _require_header(member: Member, block: bytes) -> None:
    """Raises `VideoError` unless a header of a member of that size ends where the member starts."""
    try:
        size = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape").size
    except tarfile.TarError:
        raise _moved(member, "no header is there") from None
    if size not in {member.size, 0}:  # of more than 8 GiB, the length may be in a record before
        raise _moved(member, f"a member of {size} bytes is there")


def _moved(member: Member, found: str) -> VideoError:
    lies = f"{member.name} was listed at bytes {member.start} to {member.start + member.size} of {member.place}, and {found}"
    return VideoError("video_missing", f"{lies}: the tar was cut short, or written again since")
