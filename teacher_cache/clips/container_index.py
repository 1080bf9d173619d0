"""A remote video's URI in; a local file that is as long and holds its container's index, but not its frames, out.

MP4 and MOV say in one box, `moov`, how many frames there are, when each is shown and where it lies. FFmpeg lists a video's
packets by it alone: what lies in the holes of a sparse file it takes for the frames' bytes. So a video of gigabytes is counted
by some hundred kilobytes. Matroska and the others spread this over the whole file, and are fetched whole.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator

from teacher_cache.clips.content import opened_file
from teacher_cache.clips.listing import split
from teacher_cache.clips.ranges import read_part
from teacher_cache.io.bucket import BUCKETS, is_asked_for_as_it_is
from teacher_cache.io.places import protocol

_SHORT = 2**20
"""Bytes of a file that is rather fetched whole, with one request."""
_START = 2**16
"""Bytes that are asked for first: in them are the first boxes' headers, and of many files all of the index."""
_FRAMES = 2**18
"""Bytes of the first frames that FFmpeg looks at to know the codec's order of frames."""
_LONGEST_INDEX = 2**28
_MOST_BOXES = 64
_WORTH = 10
"""An index pays if it is at most such a part of its file."""


@contextlib.contextmanager
def opened_index(uri: str) -> Iterator[tuple[int, bool]]:
    """A descriptor to list the video's packets from, and whether it is of the index alone.

    It is of the whole file for one on a disk, a short one, and one whose index is not in one place. Raises `VideoError`,
    `Unreachable`.
    """
    with contextlib.ExitStack() as stack:
        found = _index(uri) if protocol(uri) in BUCKETS and is_asked_for_as_it_is(split(uri)[1]) else None
        if found is None:
            yield stack.enter_context(opened_file(uri)), False
        else:
            stack.callback(os.close, found)
            yield found, True


def _index(uri: str) -> int | None:
    source = _Source(uri)
    source.read(0, _START)
    if source.is_whole:
        return source.file()
    if source.length <= _SHORT:
        return None
    index = _place_of_index(source)
    if index is None or index[1] - index[0] + _FRAMES > source.length // _WORTH:
        return None
    box = source.read(*index)
    if b"mvex" in box:  # fragments, each with an index of its own
        return None
    # Where the frames begin: after the index, or before it.
    source.read(index[1], min(index[1] + _FRAMES, source.length))
    source.read(0, _FRAMES)
    return source.file()


class _Source:
    """An object that is read in ranges, each once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._pieces: dict[int, bytes] = {}
        self.length = 0

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), fewer at the end. Raises `VideoError` if there is no such object."""
        for first, piece in self._pieces.items():
            if first <= start and min(stop, self.length) <= first + len(piece):
                return piece[start - first : stop - first]
        self._pieces[start], self.length = read_part(self._uri, start, stop)
        return self._pieces[start]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be read."""
        return 0 < self.length == len(self._pieces.get(0, b""))

    def file(self) -> int:
        """A file of the object's length with what was read, and holes."""
        with tempfile.TemporaryFile(prefix="teacher-cache-") as made:
            os.ftruncate(made.fileno(), self.length)
            for start, piece in self._pieces.items():
                os.pwrite(made.fileno(), piece, start)
            return os.dup(made.fileno())


def _place_of_index(source: _Source) -> tuple[int, int] | None:
    """Where the only `moov` of a file lies that is made of whole boxes; None for any other file."""
    at, index = 0, None
    for _ in range(_MOST_BOXES):
        if at == source.length:
            return index
        header = source.read(at, at + 16)
        if len(header) < 8:
            return None
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:], "big")
        elif size == 0:
            size = source.length - at
        if size < 8 or at + size > source.length or kind not in _BOXES or (kind == b"moov" and index is not None):
            return None
        if kind == b"moov":
            index = at, at + size
        if index is not None and index[1] - index[0] > _LONGEST_INDEX:
            return None
        at += size
    return None


_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"pdin"}
