"""A video opened by PyAV, which is FFmpeg: the decoder that is tried where decord cannot, and the one that uses a GPU's.

Decoded YUV is exact by the codecs' standards, whoever decodes; the conversion to RGB is not, and is FFmpeg's here, so a row's
decoder names what gave its frames.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.codec.hwaccel
import av.error
import numpy as np

from schemas.clip import Footage
from schemas.errors import VideoError
from teacher_cache.clips.preprocess import Frame
from teacher_cache.clips.video import Device, TimedFrame

_LIBAVCODEC = ".".join(map(str, av.library_versions["libavcodec"]))
DECODERS: dict[Device, str] = {
    "cpu": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC})",
    "cuda": f"PyAV {av.__version__} (libavcodec {_LIBAVCODEC}, cuda)",
}


class AvVideo:
    """`teacher_cache.clips.video.OpenVideo`, by PyAV."""

    def __init__(self, container: Any, stream: Any, packets: _Packets, decoder: str) -> None:
        self.decoder = decoder
        self._container, self._stream, self._packets = container, stream, packets
        rate = stream.average_rate or 0
        self.footage = Footage(frames=packets.frames, fps=float(rate) if rate > 0 else 0.0)
        self._next = 0
        """Number of the frame that ``_running`` gives next."""
        self._running = self._decoded()

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        for index in indices:
            try:
                yield self._frame(index)
            except av.error.FFmpegError as error:
                raise VideoError("decode_error", _message(error)) from None

    def _frame(self, index: int) -> TimedFrame:
        start = self._packets.entry(index)
        if index < self._next or start > self._next:
            self._seek(start)
        for frame in self._running:
            found = self._packets.number(frame, self._next)
            if found > index:
                break
            self._next = found + 1
            if found == index:
                return TimedFrame(_upright(frame), float(frame.time or 0.0))
        raise VideoError("decode_error", f"frame {index} of {self.footage.frames} does not decode")

    def _seek(self, start: int) -> None:
        self._container.seek(self._packets.seek_to(start), stream=self._stream)
        self._running, self._next = self._decoded(), start

    def _decoded(self) -> Iterator[Any]:
        return iter(self._container.decode(self._stream))


@dataclass(frozen=True)
class _Packets:
    """Where a video's frames are, from its packets alone."""

    shown: list[int]
    """Presentation time stamps, ascending: of frame 0, 1, … Empty where the packets have none, or one twice."""
    keys: list[int]
    """Numbers of the frames that decoding can begin at, ascending; the first frame is always one."""
    keys_decoded: list[int]
    """Decoding time stamp of each of ``keys``."""
    frames: int

    def entry(self, index: int) -> int:
        """The frame to begin decoding at, to come to a frame."""
        return self.keys[bisect.bisect_right(self.keys, index) - 1]

    def seek_to(self, start: int) -> int:
        return self.keys_decoded[self.keys.index(start)]

    def number(self, frame: Any, following: int) -> int:
        """Which frame a decoded one is: by its time, or where there are no times by its place."""
        if not self.shown:
            return following
        return following if frame.pts is None else bisect.bisect_left(self.shown, frame.pts)


def _read_packets(container: Any, stream: Any) -> _Packets:
    packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
    stamps = sorted({p.pts for p in packets if p.pts is not None})
    if len(stamps) < len(packets):
        return _Packets(shown=[], keys=[0], keys_decoded=[_first_stamp(stream)], frames=len(packets))
    keys = sorted((bisect.bisect_left(stamps, p.pts), p.dts if p.dts is not None else p.pts) for p in packets if p.is_keyframe)
    if not keys or keys[0][0] > 0:
        keys.insert(0, (0, _first_stamp(stream)))
    return _Packets(stamps, [k for k, _ in keys], [d for _, d in keys], len(packets))


def _first_stamp(stream: Any) -> int:
    return min(0, stream.start_time or 0)


@contextlib.contextmanager
def opened(path: Path, device: Device = "cpu") -> Iterator[AvVideo]:
    """`teacher_cache.clips.video.Opener`.

    On ``cuda`` this opens what the GPU's decoder decodes and nothing else: no device, or a codec that it lacks, is
    not_a_video here, and so the next decoder's. Software is then never called cuda.
    """
    accelerator = av.codec.hwaccel.HWAccel("cuda", allow_software_fallback=False) if device == "cuda" else None
    try:
        with av.open(str(path), hwaccel=accelerator) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError("not_a_video", "it has no video stream")
            stream.thread_count = 1
            packets = _read_packets(container, stream)
            if not packets.frames:
                raise VideoError("no_frames", "the video holds no frame")
            container.seek(packets.keys_decoded[0], stream=stream)
            yield AvVideo(container, stream, packets, DECODERS[device])
    except (av.error.FFmpegError, RuntimeError) as error:
        raise VideoError("not_a_video", _message(error)) from None


def _upright(frame: Any) -> Frame:
    """(height, width, RGB) uint8, turned as the video's metadata say."""
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _message(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
