"""A video's container in; its number of frames, timestamps and entry points out, without decoding any frame."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.stream import Disposition
from numpy.typing import NDArray

from schemas.clip import VideoInfo
from schemas.errors import VideoError

REORDERED = 16
"""H.264 and HEVC reorder at most 16 frames: so far may a packet be from its place in display order."""

CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "gxf", "nut", "rm", "wtv", "dv", "nsv",
    "nuv", "ivf", "gif", "apng", "yuv4mpegpipe", "m4v", "h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "vc1", "vc1test",
    "dirac", "dnxhd", "mjpeg", "cavsvideo", "avs2", "avs3",
)  # fmt: skip
"""FFmpeg's names of the containers that are read: those that hold their video themselves. Playlists, lists of pictures, stream
descriptions and the like name other files, and are not."""
_PICTURES = frozenset({"avif", "heic", "heix", "mif1", "miaf"})
"""Brands of still pictures in the container of mp4; those of sequences are others."""
MAX_PIXELS = 1 << 26
"""Pixels of the largest picture that is decoded, 8192 × 8192; an 8K video has half of them."""

# Containers without presentation times. The times that FFmpeg returns for them are in storage order.
_UNTIMED = frozenset({"avi"})


class Stamps(NamedTuple):
    """What identifies a packet."""

    pts: int | None
    dts: int | None
    size: int


class Entry(NamedTuple):
    """An entry point: a frame at which decoding can begin."""

    number: int
    packet: Stamps


@dataclass(frozen=True)
class Packets:
    """The packets of a video's main stream that hold a visible frame."""

    footage: VideoInfo
    time_base: Fraction
    """Seconds per unit of a timestamp."""
    stamps: tuple[int, ...]
    """Presentation timestamps of frames 0, 1, …, ascending; empty if they do not give the frames' order."""
    ticks: tuple[int, ...]
    """In a container without presentation times, the frames' decoding times, ascending, if known; otherwise empty."""
    entries: tuple[Entry, ...]
    """Entry points, ascending. The first is frame 0."""
    skipped: int = 0
    """Packets before the first entry point, of a recording that begins inside a group: nothing decodes them."""
    missing: int = 0
    """Frames after these that the container lists, and that the file, cut short, no longer holds."""
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 4), np.int64))
    """(packet, 4): presentation timestamp, first byte in the file, length, and whether the container's index lists it as an
    entry point, of every packet, in the file's order; none where one is not known."""

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Each frame's presentation time in seconds: from the timestamps, or else from the frames' numbers and rate."""
        if self.ticks or self.stamps:
            return np.array(self.ticks or self.stamps) * self.time_base.numerator / self.time_base.denominator
        return np.arange(self.footage.frames) / (self.footage.fps or math.inf)

    def seconds(self, index: int, stamp: int | None) -> float:
        """A decoded frame's presentation time in seconds: its own, if it has one that the container does not have better."""
        return float(self.times[index] if stamp is None or self.ticks else stamp * self.time_base)

    def number(self, stamp: int) -> int | None:
        """Number of the frame with that timestamp; None for a frame that is not the video's, such as one before its first."""
        number = bisect.bisect_left(self.stamps, stamp)
        return number if number < len(self.stamps) and self.stamps[number] == stamp else None

    def ranges(self, indices: Iterable[int]) -> list[tuple[int, int]] | None:
        """The bytes [start, stop) that decoding these frames takes, in order, for each packet; None where that is not known."""
        if not self.stamps or not len(self.places):
            return None
        stamps = self.places[:, 0]
        order, entries = np.argsort(stamps), np.flatnonzero(self.places[:, 3])
        needed = np.zeros(len(order), bool)
        for index in indices:
            last = order[np.searchsorted(stamps[order], self.stamps[index])]
            # By the container: FFmpeg looks into a packet to tell an entry point, and its bytes may not be here.
            before = entries[(entries <= last) & (stamps[entries] <= self.stamps[index])]
            first = before[-1] if len(before) else 0
            needed[first : last + REORDERED + 2] = True  # a decoder gives a frame once it has read those behind it
        return sorted((int(start), int(start + size)) for _, start, size, _ in self.places[needed])

    def entry(self, index: int) -> Entry:
        """The last entry point at or before a frame."""
        return self.entries[bisect.bisect_right(self.entries, index, key=lambda entry: entry.number) - 1]


def open_container(file: int, accelerator: HWAccel | None = None) -> Any:
    """Open a file, by its descriptor, as a PyAV container that reads nothing else, whatever the file says. It stays open.

    Two containers of one descriptor cannot be read in turns, since they share its position. Raises what PyAV raises.
    """
    os.lseek(file, 0, os.SEEK_SET)
    options = {
        "fd": str(file), "protocol_whitelist": "fd", "format_whitelist": ",".join(CONTAINERS), "max_pixels": str(MAX_PIXELS),
    }  # fmt: skip
    return av.open("fd:", options=options, hwaccel=accelerator)


def read_packets(file: int) -> Packets:
    """Read a file's packets. Raises `VideoError`: not_a_video, no_frames, or decode_error for giant pictures."""
    try:
        with open_container(file) as container:
            stream = main_stream(container)
            packets = [packet for packet in map(_packet, container.demux(stream)) if packet.stamps.size]
            if len(packets) == 1 and holds_pictures(container):
                raise VideoError("not_a_video", "a picture, not a video")
            return _packets(container.format.name, stream, packets)
    except av.error.FFmpegError as error:
        raise VideoError("not_a_video", message(error)) from None


def main_stream(container: Any) -> Any:
    """The video stream that a player would show, set to decode in one thread. Raises `VideoError`, for giant pictures too."""
    stream = container.streams.best("video")
    if (
        stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic
    ):  # cover art of an audio file
        raise VideoError("not_a_video", "the file has no video stream that can be decoded")
    codec = stream.codec_context
    if codec.width * codec.height > MAX_PIXELS:
        raise VideoError("decode_error", f"its pictures are {codec.width} × {codec.height}; {MAX_PIXELS} pixels may be decoded")
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # a later header may claim others than the container does
    stream.thread_count = 1
    return stream


def message(error: Exception) -> str:
    """The first line of FFmpeg's message."""
    if isinstance(error, av.error.ArgumentError) and error.filename == "fd:":  # what FFmpeg says of a format off the list
        return "damaged, or no container of a video: playlists, lists of pictures and pictures are not read"
    said = getattr(error, "strerror", None) or str(error)
    return said.strip().splitlines()[0] if said.strip() else type(error).__name__


class _Packet(NamedTuple):
    """A packet without its bytes."""

    stamps: Stamps
    is_key: bool
    is_hidden: bool
    """Decoded but not shown, because of an edit list."""
    place: int | None
    """Its first byte in the file."""


def _packet(packet: Any) -> _Packet:
    return _Packet(Stamps(packet.pts, packet.dts, packet.size), packet.is_keyframe, packet.is_discard, packet.pos)


def _packets(container: str, stream: Any, packets: list[_Packet]) -> Packets:
    index = list(stream.index_entries)
    listed = sum(entry.size > 0 and not entry.is_discard for entry in index)
    missing = max(0, listed - sum(not packet.is_hidden for packet in packets))
    skipped = next((number for number, packet in enumerate(packets) if packet.is_key), 0)
    packets = _from_entry(packets, skipped)
    shown = [packet for packet in packets if not packet.is_hidden]
    if not shown:
        raise VideoError("no_frames", "the video holds no frame")
    stamps = () if container in _UNTIMED else _stamps(shown, is_reordered=bool(stream.codec_context.has_b_frames))
    entries = {0: packets[0].stamps}
    for packet in shown if stamps else ():
        if packet.is_key and packet.stamps.pts is not None and packet.stamps.dts is not None:
            entries[bisect.bisect_left(stamps, packet.stamps.pts)] = packet.stamps
    rate = stream.average_rate or 0
    return Packets(
        footage=VideoInfo(frames=len(shown), fps=max(0.0, float(rate))),
        time_base=stream.time_base,
        stamps=stamps,
        ticks=_ascending([packet.stamps.dts for packet in shown]) if container in _UNTIMED else (),
        entries=tuple(Entry(number, entries[number]) for number in sorted(entries)),
        skipped=skipped,
        missing=missing,
        places=_places(packets, {entry.pos for entry in index if entry.is_keyframe}),
    )


def _places(packets: list[_Packet], entries: set[int]) -> NDArray[np.int64]:
    rows = [(packet.stamps.pts, packet.place, packet.stamps.size, packet.place in entries) for packet in packets]
    is_known = all(stamp is not None and place is not None and place >= 0 for stamp, place, *_ in rows)
    return np.array(rows if is_known else [], np.int64).reshape(-1, 4)


def holds_pictures(container: Any) -> bool:
    """Whether a file's format is that of pictures; more than one of them are an animation."""
    return container.format.name in {"gif", "apng"} or container.metadata.get("major_brand") in _PICTURES


def _from_entry(packets: list[_Packet], skipped: int) -> list[_Packet]:
    """The packets from an entry point on, without the frames that are shown before it: they need what came before it, too."""
    begins = packets[skipped].stamps.pts if skipped else None
    return [
        packet for packet in packets[skipped:] if begins is None or packet.stamps.pts is None or packet.stamps.pts >= begins
    ]


def _stamps(packets: list[_Packet], *, is_reordered: bool) -> tuple[int, ...]:
    """The packets' presentation timestamps, ascending; empty if one is missing, repeated, or too far out of order."""
    times = [packet.stamps.pts for packet in packets]
    stamps = _ascending(times)
    allowed = REORDERED if is_reordered else 0
    strayed = (abs(bisect.bisect_left(stamps, time) - index) for index, time in enumerate(times) if time is not None)
    return stamps if stamps and max(strayed) <= allowed else ()


def _ascending(times: list[int | None]) -> tuple[int, ...]:
    """The times, sorted; empty if one is missing or repeated."""
    known = sorted({time for time in times if time is not None})
    return tuple(known) if len(known) == len(times) else ()
