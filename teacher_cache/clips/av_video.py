"""A video opened by PyAV, which is FFmpeg: in software, or by the decoder of a GPU.

Decoded YUV is exact by the codecs' standards, whoever decodes. The conversion to RGB is not: it is that of FFmpeg's swscale, on
the CPU and here, for either device. So a row's decoder names what gave its frames.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel

from schemas.errors import VideoError
from teacher_cache.clips.packets import Entry, Packets, Stamps, main_stream, message, read_packets
from teacher_cache.clips.preprocess import Frame
from teacher_cache.clips.video import Device, TimedFrame

_LIBAVCODEC = ".".join(map(str, av.library_versions["libavcodec"]))
DECODERS: Mapping[Device, str] = {
    "cpu": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC})",
    "cuda": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC}, cuda)",
}

_SKIPPING = frozenset({"h264", "hevc"})
"""FFmpeg's decoders that can leave out a frame from which no other is predicted; the others stay the same to the last bit."""


class AvVideo:
    """`teacher_cache.clips.video.OpenVideo`, by PyAV.

    A decoded frame is known by its presentation time. Where the container's times do not tell (none, one twice, or going back)
    it is known by how many came before it since the first, and decoding then never begins in between.
    """

    def __init__(self, path: Path, packets: Packets, device: Device) -> None:
        self.decoder, self.footage = DECODERS[device], packets.footage
        self._path, self._packets, self._device = path, packets, device
        self._seeks = True
        self._running: Iterator[Any] = iter(())
        self._following: float = 0
        """Number of the frame that comes next of ``_running``; infinite where that is not known."""
        self._wanted: frozenset[int] = frozenset()
        self._passed: float = -math.inf
        """The last of the time stamps wanted. Before it, what is not wanted, and needed for no other frame, is not decoded."""
        self._begin()

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        stamps = self._packets.stamps
        self._wanted = frozenset(stamps[index] for index in indices) if stamps else frozenset()
        self._passed = max(self._wanted, default=-math.inf)
        last = None
        try:
            for index in indices:
                try:
                    yield self._frame(index)
                except av.error.FFmpegError as error:
                    raise VideoError("decode_error", f"frame {index} of {self.footage.frames}: {message(error)}") from None
                last = index
        finally:
            if indices and last != indices[-1]:  # of the frames before the last one, not all were decoded
                self._following = math.inf

    def require_first(self) -> None:
        """Decode one frame, which is how to know that a device can. Raises `VideoError`, or what PyAV raises."""
        first = next(self._running, None)
        if first is None:
            raise VideoError("decode_error", "no frame comes")
        self._running = itertools.chain([first], self._running)

    def close(self) -> None:
        self._container.close()

    def _begin(self) -> None:
        """Decode from the start, in a container opened anew: not every kind can seek."""
        # Strictly the device's: what it cannot decode is left to the next decoder, so that software is never called cuda.
        accelerator = HWAccel("cuda", allow_software_fallback=False) if self._device == "cuda" else None
        self._container = av.open(str(self._path), hwaccel=accelerator)
        self._stream = main_stream(self._container)
        self._running, self._following = self._decoded(self._container.demux(self._stream)), 0

    def _frame(self, index: int) -> TimedFrame:
        self._approach(index)
        for frame in self._running:
            number = self._following if frame.pts is None or not self._packets.stamps else self._packets.number(frame.pts)
            self._following = number + 1
            if number == index and not frame.is_corrupt:
                return TimedFrame(_upright(frame), self._packets.seconds(index, frame.pts))
            if number >= index:
                break
        raise VideoError("decode_error", f"frame {index} of {self.footage.frames} does not decode")

    def _approach(self, index: int) -> None:
        """Go on decoding where that leads to the frame; else begin at the last frame before it where decoding can begin."""
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
        """Begin at a frame. Where its packet does not come back the same (MPEG-PS), seeking is given up for this video."""
        self._container.seek(entry.packet.dts, stream=self._stream)
        packets = self._container.demux(self._stream)
        first = next(packets, None)
        self._seeks = first is not None and Stamps(first.pts, first.dts, first.size) == entry.packet
        if not self._seeks:
            self._restart()
            return
        self._running, self._following = self._decoded(itertools.chain([first], packets)), entry.number

    def _decoded(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Frames as they come. A packet that does not decode loses its own, if the frames' times tell which the others are."""
        codec = self._stream.codec_context
        for packet in packets:
            if codec.name in _SKIPPING and packet.pts is not None:
                is_passed = packet.pts < self._passed and packet.pts not in self._wanted
                codec.skip_frame = "NONREF" if is_passed else "DEFAULT"
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if not self._packets.stamps:
                    raise
                continue
            yield from frames


@contextlib.contextmanager
def opened(path: Path, device: Device = "cpu") -> Iterator[AvVideo]:
    """`teacher_cache.clips.video.Opener`.

    On ``cuda`` it opens what the GPU's decoder decodes and nothing else: where there is no device, or the device lacks the
    codec, this raises and the next decoder is tried.
    """
    packets = read_packets(path)
    try:
        video = AvVideo(path, packets, device)
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


def _upright(frame: Any) -> Frame:
    """(height, width, RGB) uint8, turned as the video's metadata say."""
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
