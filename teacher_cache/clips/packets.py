"""What a video's container says of its frames, read once without decoding any: how many, when each is shown, where to begin."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
from av.stream import Disposition

from schemas.clip import VideoInfo
from schemas.errors import VideoError

# A codec holds back 16 frames at most to put them in order (H.264, HEVC): so far may a packet be from its display order.
_REORDERED = 16

# Containers without presentation times: what FFmpeg gives for them is the order of storage.
_UNTIMED = frozenset({"avi"})


class Stamps(NamedTuple):
    """What tells one packet from the others."""

    pts: int | None
    dts: int | None
    size: int


class Entry(NamedTuple):
    """A frame at which decoding can begin."""

    number: int
    packet: Stamps


@dataclass(frozen=True)
class Packets:
    """The packets of a video's main stream that give a frame to show."""

    footage: VideoInfo
    time_base: Fraction
    """Seconds of a time stamp's unit."""
    stamps: tuple[int, ...]
    """Presentation time stamps of frames 0, 1, …, ascending; empty where they do not tell the frames' order."""
    ticks: tuple[int, ...]
    """Where there are no presentation times, the times at which frames come out in order, if those are known."""
    entries: tuple[Entry, ...]
    """Where decoding can begin, ascending. The first is frame 0."""

    def seconds(self, index: int, stamp: int | None) -> float:
        """When a frame is shown: by its stamp, or by its number in a container without presentation times."""
        if self.ticks:
            return float(self.ticks[index] * self.time_base)
        if stamp is not None:
            return float(stamp * self.time_base)
        return index / self.footage.fps if self.footage.fps else 0.0

    def number(self, stamp: int) -> int:
        """The frame that is shown at a time stamp, or the next one where there is none."""
        return bisect.bisect_left(self.stamps, stamp)

    def entry(self, index: int) -> Entry:
        """Where to begin decoding, to come to a frame."""
        return self.entries[bisect.bisect_right(self.entries, index, key=lambda entry: entry.number) - 1]


def read_packets(path: Path) -> Packets:
    """Raises `VideoError`: not_a_video, or no_frames."""
    try:
        with av.open(str(path)) as container:
            stream = main_stream(container)
            return _packets(container.format.name, stream, [p for p in map(_packet, container.demux(stream)) if p.stamps.size])
    except av.error.FFmpegError as error:
        raise VideoError("not_a_video", message(error)) from None


def main_stream(container: Any) -> Any:
    """The video stream that a player shows, to be decoded by one thread. Raises `VideoError`."""
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:  # a sound's cover
        raise VideoError("not_a_video", "the file has no video stream that can be decoded")
    stream.thread_count = 1
    return stream


def message(error: Exception) -> str:
    """The first line of what FFmpeg says."""
    said = getattr(error, "strerror", None) or str(error)
    return said.strip().splitlines()[0] if said.strip() else type(error).__name__


class _Packet(NamedTuple):
    """A packet without its bytes."""

    stamps: Stamps
    is_key: bool
    is_hidden: bool
    """Decoded and not shown, as an edit list asks for."""


def _packet(packet: Any) -> _Packet:
    return _Packet(Stamps(packet.pts, packet.dts, packet.size), packet.is_keyframe, packet.is_discard)


def _packets(container: str, stream: Any, packets: list[_Packet]) -> Packets:
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
    )


def _stamps(packets: list[_Packet], *, is_reordered: bool) -> tuple[int, ...]:
    """The packets' presentation times, ascending; empty where one is missing, comes twice or goes back."""
    times = [packet.stamps.pts for packet in packets]
    stamps = _ascending(times)
    allowed = _REORDERED if is_reordered else 0
    strayed = (abs(bisect.bisect_left(stamps, time) - index) for index, time in enumerate(times) if time is not None)
    return stamps if stamps and max(strayed) <= allowed else ()


def _ascending(times: list[int | None]) -> tuple[int, ...]:
    """In order, if all are there and none comes twice; else empty."""
    known = sorted({time for time in times if time is not None})
    return tuple(known) if len(known) == len(times) else ()
