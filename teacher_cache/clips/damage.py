"""Packets in, as they are decoded; which frames a damaged one hits, and which could be left out, out. Decodes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

_START = b"\x00\x00\x01"

_H264_SLICES, _H264_HEADERS = frozenset({1, 2, 3, 4, 5}), frozenset({7, 8, 13, 15})
_HEVC_HEADERS = frozenset({32, 33, 34})
_HEVC_SLICES = frozenset(range(32))
_HEVC_UNNEEDED = frozenset({0, 2, 4, 6, 8, 10, 12, 14})


class Damage:
    """Which frames a damaged packet hits: its own, and if others need it, what is read after it up to the next entry point.

    Frames are named by their timestamps.
    """

    def __init__(self) -> None:
        self._read: dict[int, bool] = {}
        """The packets since the last entry point, in the order of decoding → whether other frames need them."""
        self._hit: set[int] = set()
        self._whole_from = -math.inf
        """Frames that are shown before that need what is damaged."""

    def read(self, stamp: int, *, is_entry: bool, is_needed: bool) -> None:
        """The next packet is read."""
        if is_entry:
            self._read = {}
            if self._whole_from == math.inf:
                self._whole_from = stamp
        self._read[stamp] = is_needed
        if stamp < self._whole_from:
            self._hit.add(stamp)

    def found(self, stamp: int) -> None:
        """The packet of this frame is damaged."""
        self._hit.add(stamp)
        if not self._read.get(stamp, True):
            return
        read = list(self._read)
        # One of an earlier group hits of this one what is shown before its entry point, as open groups have it.
        self._whole_from = math.inf if stamp in self._read else max(self._whole_from, read[0])
        later = read[read.index(stamp) :] if stamp in self._read else read
        self._hit |= {other for other in later if other < self._whole_from}

    def has_hit(self, stamp: int | None) -> bool:
        """Whether the frame is damaged, or needs what is."""
        return stamp in self._hit


def unneeded(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """Tells of a packet whether it can be left out, with all other frames the same, bit for bit; None if no packet can.

    ``codec``: FFmpeg's name of the decoder; ``extradata``: the stream's. Bytes that make no sense count as needed.
    """
    data = extradata or b""
    match codec:
        case "h264":
            length = (data[4] & 3) + 1 if data[:1] == b"\x01" and len(data) > 4 else None
            return lambda packet: _is_unneeded(packet, length, _h264)
        case "hevc":
            is_prefixed = len(data) > 21 and (data[0] or data[1] or data[2] > 1)
            length = (data[21] & 3) + 1 if is_prefixed else None
            return lambda packet: _is_unneeded(packet, length, _hevc)
        case _:
            return None


def _is_unneeded(packet: bytes, length: int | None, of: Callable[[int], bool | None]) -> bool:
    """``of`` says of a unit's first byte whether it is needed; None if that depends on the others."""
    said = [of(unit) for unit in (_started(packet) if length is None else _prefixed(packet, length))]
    return False in said and True not in said


def _h264(header: int) -> bool | None:
    kind = header & 31
    if kind in _H264_SLICES:
        return bool(header >> 5 & 3)
    return True if kind in _H264_HEADERS else None


def _hevc(header: int) -> bool | None:
    kind = header >> 1 & 63
    if kind in _HEVC_SLICES:
        return kind not in _HEVC_UNNEEDED
    return True if kind in _HEVC_HEADERS else None


def _started(packet: bytes) -> Iterator[int]:
    """The first byte of each unit, of those that begin with a start code."""
    place = packet.find(_START)
    while 0 <= place < len(packet) - 3:
        yield packet[place + 3]
        place = packet.find(_START, place + 3)


def _prefixed(packet: bytes, length: int) -> Iterator[int]:
    """The first byte of each unit, of those that begin with their length."""
    place = 0
    while place + length < len(packet):
        yield packet[place + length]
        place += length + int.from_bytes(packet[place : place + length], "big")
