"""A file in, an opened video out, by PyAV (FFmpeg): decoded in software, or by a GPU's decoder.

The codecs' standards define decoded YUV exactly, whatever the decoder. They do not define the conversion to RGB; here it is
that of FFmpeg's swscale, on the CPU, for either device. So each row records which decoder produced its frames.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorTrc

from schemas.errors import VideoError
from teacher_cache.clips.damage import Damage, unneeded
from teacher_cache.clips.fields import deinterlaced
from teacher_cache.clips.packets import (
    MAX_PIXELS,
    REORDERED,
    Entry,
    Packets,
    main_stream,
    message,
    open_container,
    read_packets,
)
from teacher_cache.clips.preprocess import Frame
from teacher_cache.clips.tone import Transfer, tone_mapped
from teacher_cache.clips.video import PLAIN, Device, NotHeld, Ranges, Shown, TimedFrame

_LIBAVCODEC = ".".join(map(str, av.library_versions["libavcodec"]))
DECODERS: Mapping[Device, str] = {
    "cpu": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC})",
    "cuda": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC}, cuda)",
}

_HIGH_RANGE: Mapping[int, Transfer] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}


class _Decoded(NamedTuple):
    frame: Any
    is_whole: bool
    """Whether neither its packet nor any that it is predicted from is damaged."""


class AvVideo:
    """`teacher_cache.clips.video.OpenVideo`, by PyAV.

    A decoded frame is identified by its presentation time. If the container's times are unusable (missing, repeated or going
    back), frames are counted from the first one, and decoding never begins in between.

    What follows a damaged packet, up to the next entry point, is predicted from it and not given, whatever else was asked for:
    FFmpeg conceals the damage, and later frames show it without a sign.
    """

    def __init__(self, file: int, packets: Packets, device: Device, shown: Shown) -> None:
        self.decoder, self.footage, self.times = DECODERS[device], packets.footage, packets.times
        self.missing = packets.missing
        self._file, self._packets, self._device, self._shown = file, packets, device, shown
        self.held: Ranges | None = None
        """What there is of the file; None for all of it. The rest is zeros, which some codecs would take for pictures."""
        self._seeks = True
        self._has_fields = False
        """Whether frames were found to be interlaced, so that those next to the wanted ones are needed as well."""
        self._recent: deque[tuple[int, _Decoded]] = deque(maxlen=3)
        self._running: Iterator[_Decoded] = iter(())
        self._following: float = 0
        """Number of the next frame of ``_running``; infinite if unknown."""
        self._wanted: frozenset[int] = frozenset()
        self._passed: float = -math.inf
        """The last wanted timestamp. Earlier frames that are neither wanted nor needed for others are not decoded."""
        self._begin()

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """See `OpenVideo.frames`."""
        self._want(indices)
        last = None
        try:
            for index in indices:
                try:
                    yield self._frame(index, indices)
                except av.error.FFmpegError as error:
                    raise self._failure(index, f": {message(error)}") from None
                last = index
        finally:
            if indices and last != indices[-1]:  # stopped early: not every frame before the last one was decoded
                self._following = math.inf

    def whole_frames(self, least: int) -> int:
        """See `OpenVideo.whole_frames`."""
        entries, stop = self._packets.entries, self.footage.frames
        self._wanted, self._passed = frozenset(), -math.inf
        for entry in reversed(entries):
            if whole := self._whole(entry.number, stop):
                # Frames are not stored in the order in which they are shown: where a file ends, the last ones may have gaps.
                last = whole[-1]
                around = range(max(entry.number, last - REORDERED * self._stream.codec_context.has_b_frames), last)
                return next((number for number in around if number not in whole), last + 1)
            stop = entry.number
            if stop < least:
                break
        return stop

    def _whole(self, first: int, stop: int) -> list[int]:
        """Numbers of the frames from an entry point to the next that decode."""
        whole: list[int] = []
        self._following = math.inf
        self._approach(first)
        with contextlib.suppress(av.error.FFmpegError):
            for number, (_, is_whole) in self._numbered():
                if number >= stop:
                    break
                if number >= first and is_whole:
                    whole.append(number)
        self._following = math.inf
        return whole

    def ranges(self, indices: Sequence[int]) -> Ranges:
        """The bytes that decoding these frames takes. Raises `NotHeld` where that is not known."""
        found = self._packets.ranges(indices)
        if found is None:
            raise NotHeld
        return found

    def require_first(self) -> None:
        """Decode one frame, to find out whether the device can. Raises `VideoError`, or what PyAV raises."""
        first = next(self._running, None)
        if first is None:
            raise VideoError("decode_error", "no frame comes")
        self._running = itertools.chain([first], self._running)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _begin(self) -> None:
        """Decode from the start, in a newly opened container: not every format can seek."""
        # No fallback: what the device cannot decode is left to the next decoder, so that software is never recorded as cuda.
        accelerator = HWAccel("cuda", allow_software_fallback=False) if self._device == "cuda" else None
        self._container = open_container(self._file, accelerator)
        self._stream = main_stream(self._container)
        packets = (packet for packet in self._container.demux(self._stream) if packet.size or packet.dts is None)
        self._running, self._following = self._decoded(itertools.islice(packets, self._packets.skipped, None)), 0

    def _want(self, indices: Sequence[int]) -> None:
        stamps = self._packets.stamps
        if self._has_fields:
            indices = [index + near for index in indices for near in (-1, 0, 1) if 0 <= index + near < self.footage.frames]
        self._wanted = frozenset(stamps[index] for index in indices) if stamps else frozenset()
        self._passed = max(self._wanted, default=-math.inf)

    def _frame(self, index: int, indices: Sequence[int]) -> TimedFrame:
        frame = self._whole_frame(index)
        seconds = self._packets.seconds(index, frame.pts)
        if frame.interlaced_frame:
            if self._shown.interlaced == "refuse":
                detail = "its frames are interlaced, each of fields of two times; `clips.interlaced: bwdif` decodes them"
                raise VideoError("interlaced_unsupported", detail)
            if not self._has_fields:
                self._has_fields = True
                self._want(indices)
            frame = deinterlaced(self._near(index - 1), frame, self._near(index + 1))
        return TimedFrame(_upright(frame, self._shown), seconds)

    def _near(self, index: int) -> Any:
        """A frame next to a wanted one; None if there is none, or none that decodes."""
        try:
            return self._whole_frame(index) if 0 <= index < self.footage.frames else None
        except VideoError:
            return None

    def _whole_frame(self, index: int) -> Any:
        """The decoded frame with that number. Raises `VideoError` if it is damaged, or predicted from what is."""
        kept = next((decoded for number, decoded in self._recent if number == index and decoded.is_whole), None)
        if kept is not None:
            return kept.frame
        self._approach(index)
        for number, (frame, is_whole) in self._numbered():
            if number == index and is_whole:
                return frame
            if number >= index:
                break
        raise self._failure(index, " does not decode")

    def _numbered(self) -> Iterator[tuple[int, _Decoded]]:
        """The frames that are decoded next, with their numbers."""
        for decoded in self._running:
            stamp = decoded.frame.pts
            number = self._packets.number(stamp) if self._packets.stamps and stamp is not None else int(self._following)
            if number is not None:
                self._following = number + 1
                if self._has_fields:
                    self._recent.append((number, decoded))
                yield number, decoded

    def _failure(self, index: int, said: str) -> VideoError:
        if not self._stream.codec_context.width:  # FFmpeg forgets a size that it refuses
            said = f" has no size, or more than the {MAX_PIXELS} pixels that may be decoded"
        return VideoError("decode_error", f"frame {index} of {self.footage.frames}{said}")

    def _approach(self, index: int) -> None:
        """Keep decoding if that leads to the frame; otherwise seek to the last entry point before it."""
        entry = self._packets.entry(index)
        if self._following <= index and (entry.number <= self._following or not self._seeks):
            return
        if entry.number and self._seeks:
            self._seek(entry)
        else:
            self._restart()

    def _restart(self) -> None:
        self.close()
        self._begin()

    def _seek(self, entry: Entry) -> None:
        """Seek to an entry point. If another packet comes back (MPEG-PS), give up seeking in this video."""
        for stamp in (entry.packet.pts, entry.packet.dts):  # mp4 is searched by the one, transport streams by the other
            self._container.seek(stamp, stream=self._stream)
            packets = self._container.demux(self._stream)
            first = next(packets, None)
            # Not by decoding times: in Matroska they are guessed from the packets before.
            if first is not None and (first.pts, first.size) == (entry.packet.pts, entry.packet.size):
                self._running, self._following = self._decoded(itertools.chain([first], packets)), entry.number
                return
        self._seeks = False
        self._restart()

    def _decoded(self, packets: Iterator[Any]) -> Iterator[_Decoded]:
        """Decoded frames, from an entry point on."""
        packets = map(self._held, packets)
        if self._packets.stamps:
            yield from self._decoded_by_time(packets)
            return
        is_whole = True
        for packet in packets:
            is_cut = self._is_cut(packet)
            for frame in packet.decode():
                is_whole = not (frame.is_corrupt or is_cut) and (is_whole or frame.key_frame)
                yield _Decoded(frame, is_whole)
            is_whole = is_whole and not is_cut

    def _is_cut(self, packet: Any) -> bool:
        """Whether the packet's end is missing. Decoders of single pictures fill what lacks with whatever their memory holds,
        and say nothing.

        Of a transport stream, FFmpeg says the same where its packets' counter jumps, as where two streams were joined.
        """
        return bool(packet.is_corrupt) and self._container.format.name != "mpegts"

    def _held(self, packet: Any) -> Any:
        """The packet. Raises `NotHeld` if its bytes are not in the file."""
        if self.held is not None and packet.size:
            at = bisect.bisect_right(self.held, packet.pos, key=lambda part: part[0]) - 1
            if at < 0 or packet.pos + packet.size > self.held[at][1]:
                raise NotHeld
        return packet

    def _decoded_by_time(self, packets: Iterator[Any]) -> Iterator[_Decoded]:
        """Packets that nobody wants, and no other frame needs, are left out."""
        codec = self._stream.codec_context
        is_unneeded = unneeded(codec.name, codec.extradata)
        damage = Damage()
        for packet in packets:
            is_needed = is_unneeded is None or packet.pts is None or not is_unneeded(bytes(packet))
            if packet.pts is not None:
                damage.read(packet.pts, is_entry=packet.is_keyframe, is_needed=is_needed)
                if packet.pts < self._passed and packet.pts not in self._wanted and not is_needed:
                    continue
                if self._is_cut(packet):
                    damage.found(packet.pts)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if packet.pts is not None:
                    damage.found(packet.pts)
                continue
            for frame in frames:
                if frame.is_corrupt and frame.pts is not None:
                    damage.found(frame.pts)
                yield _Decoded(frame, not (frame.is_corrupt or damage.has_hit(frame.pts)))


@contextlib.contextmanager
def opened(file: int, shown: Shown = PLAIN, device: Device = "cpu") -> Iterator[AvVideo]:
    """`teacher_cache.clips.video.Opener`, by PyAV.

    On ``cuda`` it opens only what the GPU's decoder can decode: if there is no device, or it lacks the codec, this raises
    `VideoError`, and the next decoder is tried.
    """
    packets = read_packets(file)
    try:
        video = AvVideo(file, packets, device, shown)
    except (av.error.FFmpegError, RuntimeError) as error:
        raise VideoError("not_a_video", message(error)) from None
    with contextlib.closing(video):
        if device == "cuda":
            _require_decoding(video)
        yield video


def _require_decoding(video: AvVideo) -> None:
    try:
        video.require_first()
    except (av.error.FFmpegError, VideoError) as error:
        raise VideoError("not_a_video", f"the device does not decode it: {message(error)}") from None


def _upright(frame: Any, shown: Shown) -> Frame:
    """The frame as uint8 (height, width, RGB), in SDR, turned and mirrored as the video's metadata say.

    Raises `VideoError` for high dynamic range that is not to be mapped: decoded as it is, it would be flat.
    """
    transfer = _HIGH_RANGE.get(frame.color_trc)
    if transfer is None:
        picture = frame.to_ndarray(format="rgb24")
    elif shown.hdr == "refuse":
        raise VideoError(
            "hdr_unsupported", f"its transfer function is {transfer}, and `clips.hdr` is `refuse`; `bt2390` decodes it as SDR"
        )
    else:
        picture = tone_mapped(frame, transfer).to_ndarray(format="rgb24")
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return picture if matrix is None else np.ascontiguousarray(_turned(picture, matrix))


def _turned(picture: Frame, matrix: Any) -> Frame:
    """The picture by a display matrix, rows (a, b, u), (c, d, v), (x, y, w): pixel (x, y) is shown at (ax + cy, bx + dy)."""
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
