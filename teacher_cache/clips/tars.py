"""A tar of videos in, as WebDataset writes them; where its members lie, and what the files beside them say, out.

Only the headers and the short files are read, by ranges, one after the other: only the header before tells where the next one
lies.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from teacher_cache.clips.extra import Dropped
from teacher_cache.clips.ranges import read_part
from teacher_cache.io.places import Member

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp", ".mxf",
})  # fmt: skip
"""What the names of a tar's members end in that are videos, unless a list names others."""

_AHEAD = 2**14
"""Bytes that are read with a header: the short files that follow are among them, and the next header."""
_LONGEST_READ = 2**24
"""A header's own records are read as a whole, and a damaged or hostile one may claim any length."""
_LONGEST_TEXT = 2**16
"""Bytes of a text beside a video that are read."""
_TEXTS = {"json", "txt"}


@dataclass
class TarIndex:
    """What there is in a tar."""

    members: dict[str, Member] = field(default_factory=dict)
    """Its files, by their names. Of files with one name, the last."""
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the ``.json`` and ``.txt`` of a key say, by the key: `key_of`."""
    trouble: str | None = None
    """Why it was not read to its end."""

    @property
    def videos(self) -> list[Member]:
        """The members that are videos by their names, in order."""
        return [one for one in self.members.values() if PurePosixPath(one.name).suffix.lower() in VIDEO_SUFFIXES]


def key_of(name: str) -> tuple[str, str]:
    """A member's key and extension, as WebDataset splits its name: at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def index_of(tar: str, dropped: Dropped) -> TarIndex:
    """The index of a tar. What is not kept of the texts is counted in ``dropped``. Raises `VideoError` if it is not there."""
    source, index = _Forwards(tar), TarIndex()
    try:
        for member in _files(source):
            place = Member(tar, member.name, member.offset_data, member.size)
            index.members[member.name] = place
            key, extension = key_of(member.name)
            if extension in _TEXTS:
                record = _said(extension, source, place, dropped)
                index.beside[key] = (
                    record | index.beside.get(key, {}) if extension == "txt" else index.beside.get(key, {}) | record
                )
    except (tarfile.TarError, ValueError, OverflowError) as error:
        index.trouble = f"{str(error) or type(error).__name__}, at its byte {source.tell()}"
    return index


def _files(source: _Forwards) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload]  # `tarfile` needs no more of a file
        for member in tar:
            if member.size < 0:
                raise tarfile.ReadError("a member of a negative length")
            if member.isreg() and not member.issparse():
                yield member
        # Only the end of the tar, which is zeros, or of the file ends it; `tarfile` takes a damaged header for the same.
        if source.at(tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a damaged header")
        if tar.offset > source.length:
            raise tarfile.ReadError(f"its last member ends at {tar.offset}, beyond its end")


def _said(extension: str, source: _Forwards, place: Member, dropped: Dropped) -> dict[str, Any]:
    """What a text beside a video says; a text as ``caption``, unless the JSON has one."""
    column = "caption" if extension == "txt" else "json"
    if place.size > _LONGEST_TEXT:
        dropped.add(column, f"the file has more than {_LONGEST_TEXT} bytes")
        return {}
    try:
        text = source.at(place.start, place.size).decode("utf-8-sig")
        if extension == "txt":
            return {column: text.strip()}
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        dropped.add(column, "the file is no text in UTF-8" if extension == "txt" else "the file is no JSON object")
        return {}
    return record


class _Forwards:
    """A tar as `tarfile` reads it: from its start to its end."""

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        self._first, self._held = 0, b""
        self.length = 0
        """Of the tar, in bytes."""

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        if at < self._at - 1:  # a member of a negative length would be read again and again
            raise tarfile.ReadError("a header leads back")
        self._at = at

    def read(self, count: int) -> bytes:
        data = self.at(self._at, count)
        self._at += len(data)
        return data

    def at(self, start: int, count: int) -> bytes:
        """So many bytes from there on, fewer at the end."""
        if not 0 <= count <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header with records of {count} bytes")
        stop = min(start + count, self.length or start + count)
        if start < self._first or stop > self._first + len(self._held):
            self._first = start
            self._held, length = read_part(self._url, start, start + max(count, _AHEAD))
            self.length = self.length or length
        return self._held[start - self._first : max(stop - self._first, 0)]
