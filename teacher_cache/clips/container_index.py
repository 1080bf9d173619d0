"""A remote video's URI in; a local file that is as long and holds its container's index, but not its frames, out.

MP4 and MOV say in one box, `moov`, how many frames there are, when each is shown and where it lies. FFmpeg lists a video's
packets by it alone: what lies in the holes of a sparse file it takes for the frames' bytes. So a video of gigabytes is counted
by some hundred kilobytes. A fragmented one says it in a `moof` before the frames of each fragment, which tells where the next
is: one request for each. Matroska and the others have no such list: of each frame only the header right before it tells.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from schemas.errors import VideoError
from teacher_cache.clips.content import opened_file
from teacher_cache.clips.listing import split
from teacher_cache.clips.ranges import read_part
from teacher_cache.clips.video import Ranges
from teacher_cache.io.bucket import BUCKETS, is_asked_for_as_it_is
from teacher_cache.io.local_copy import filled, require_room, write_all
from teacher_cache.io.places import protocol

_SHORT = 2**20
"""Bytes of a file that is rather fetched whole, with one request."""
_START = 2**16
"""Bytes that are asked for first: in them are the first boxes' headers, and of many files all of the index."""
_FRAMES = 2**18
"""Bytes of the first frames that FFmpeg looks at to know the codec's order of frames."""
_LONGEST_INDEX = 2**28
_MOST_BOXES = 64
_BOXES_A_FRAGMENT = 4
_AHEAD = 2**14
"""Bytes that are read with the header after a fragment: the whole index of the next one, and the header behind that."""
_SHORTEST_FRAGMENT = 2**21
"""Bytes of a fragment whose index is worth a request of its own, which takes as long as so many bytes."""
_WORTH = 10
"""An index pays if it is at most such a part of its file, and so does what is fetched by it."""
_PIECE = 2**24
_GAP = 2**18
"""Bytes that are fetched with what is wanted before and after them."""


@contextlib.contextmanager
def opened_index(uri: str) -> Iterator[tuple[int, bool]]:
    """A descriptor to list the video's packets from, and whether it is of the index alone.

    It is of the whole file for one on a disk, a short one, and one whose index is not in one place. Raises `VideoError`,
    `Unreachable`.
    """
    source = indexed(uri)
    with opened_file(uri) if source is None else source.opened() as file:
        yield file, source is not None


def indexed(uri: str) -> Source | None:
    """An object of which all of the container's index was read, or that was read whole; None for what is not read in ranges.

    Raises `VideoError`, `Unreachable`.
    """
    if protocol(uri) not in BUCKETS or not is_asked_for_as_it_is(split(uri)[1]):
        return None
    source = Source(uri)
    source.read(0, _START)
    if source.is_whole:
        return source
    if source.length <= _SHORT:
        return None
    index = _places_of_index(source)
    if index is None or sum(box.stop - box.start for box in index) + _FRAMES > source.length // _WORTH:
        return None
    for box in index:
        source.read(box.start, box.stop)
    # Where the frames begin: after the index, or before it.
    after = next(box.stop for box in index if box.kind == b"moov")
    source.read(after, min(after + _FRAMES, source.length))
    source.read(0, _FRAMES)
    return source


class Source:
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
        self._pieces[start] = self._fetched(start, stop)
        return self._pieces[start]

    def _fetched(self, start: int, stop: int) -> bytes:
        data, length = read_part(self._uri, start, stop)
        if length != (self.length or length):
            raise VideoError("decode_error", f"it was replaced while it was read: it had {self.length} bytes, and has {length}")
        self.length = length
        return data

    def pays(self, ranges: Ranges) -> bool:
        """Whether it is worth while to copy these bytes alone."""
        return sum(stop - start for start, stop in ranges) <= self.length // _WORTH

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be read."""
        return 0 < self.length == len(self._pieces.get(0, b""))

    @contextlib.contextmanager
    def opened(self, ranges: Ranges = ()) -> Iterator[int]:
        """A descriptor of a file of the object's length with what was read so far, these bytes, and holes.

        Raises as `read`; `NoRoom`.
        """

        def fill(file: int) -> bool:
            require_room(self._uri, sum(map(len, self._pieces.values())) + sum(stop - start for start, stop in ranges))
            os.ftruncate(file, self.length)
            for start, piece in chain(self._pieces.items(), self._of(ranges)):
                os.lseek(file, start, os.SEEK_SET)
                write_all(self._uri, file, piece)
            return True

        file = filled(fill)
        assert file is not None
        try:
            yield file
        finally:
            os.close(file)

    def _of(self, ranges: Ranges) -> Iterator[tuple[int, bytes]]:
        for first, last in ranges:
            for start in range(first, last, _PIECE):
                yield start, self._fetched(start, min(start + _PIECE, last))


def joined(ranges: Ranges) -> Ranges:
    """The ranges, with what lies between two of them where that is little: a request takes as long as some bytes do."""
    found: list[tuple[int, int]] = []
    for start, stop in ranges:
        if found and start - found[-1][1] <= _GAP:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


class _Box(NamedTuple):
    kind: bytes
    start: int
    stop: int


def _places_of_index(source: Source) -> list[_Box] | None:
    """Where the `moov` of a file lies that is made of whole boxes, and the `moof` of each fragment; None for any other file."""
    at, index = 0, list[_Box]()
    most = _MOST_BOXES
    while at < source.length and most:
        box = _box(source, at, _AHEAD if index and index[-1].kind == b"moof" else _HEADER)
        if box is None or not _is_read(source, box, index):
            return None
        if box.kind in _OF_INDEX:
            index.append(box)
            most += (box.kind == b"moof") * _BOXES_A_FRAGMENT
        at, most = box.stop, most - 1
    kinds = [box.kind for box in index]
    is_whole = at == source.length and kinds.count(b"moov") == 1
    return index if is_whole and b"moof" not in kinds[: kinds.index(b"moov")] else None


def _is_read(source: Source, box: _Box, index: list[_Box]) -> bool:
    """Whether the file goes on to be one that is read in ranges."""
    if box.kind == b"mdat" and index and index[-1].kind == b"moof" and box.stop - index[-1].start < _SHORTEST_FRAGMENT:
        return source.length - box.stop < _AHEAD  # the last one may be short
    return box.kind in _BOXES and (box.kind not in _OF_INDEX or box.stop - box.start <= _LONGEST_INDEX)


def _box(source: Source, at: int, ahead: int) -> _Box | None:
    """The box that begins there; None if none does that ends in the file."""
    header = source.read(at, at + ahead)[:_HEADER]
    if len(header) < 8:
        return None
    size, kind = struct.unpack(">I4s", header[:8])
    if size == 1 and len(header) == _HEADER:
        size = int.from_bytes(header[8:], "big")
    elif size == 0:
        size = source.length - at
    return _Box(kind, at, at + size) if size >= 8 and at + size <= source.length else None


_HEADER = 16
_OF_INDEX = {b"moov", b"moof"}
_BOXES = _OF_INDEX | {
    b"ftyp", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"pdin", b"styp", b"sidx", b"ssix", b"emsg",
    b"prft", b"mfra",
}  # fmt: skip
