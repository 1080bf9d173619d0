"""A file in, an opened video out, by Pillow (libwebp): animated WebP, of which FFmpeg reads no more than the first picture."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import WebPImagePlugin

from schemas.clip import VideoInfo
from schemas.errors import VideoError
from teacher_cache.clips.packets import MAX_PIXELS
from teacher_cache.clips.preprocess import BAD_PICTURE
from teacher_cache.clips.video import PLAIN, Shown, TimedFrame

DECODER = f"Pillow {PIL.__version__}"

_LARGEST = 1 << 28
"""Bytes of the largest file that is read; libwebp holds all of it."""
_CHUNK_HEADER = 8


class WebpVideo:
    """`teacher_cache.clips.video.OpenVideo`, by Pillow. Its timestamps begin at 0."""

    decoder = DECODER
    missing = 0
    """libwebp opens no file that was cut short."""

    def __init__(self, image: Any, times: NDArray[np.float64], fps: float) -> None:
        self._image, self.times = image, times
        self.footage = VideoInfo(frames=len(times), fps=fps)

    def whole_frames(self, _least: int) -> int:
        """See `OpenVideo.whole_frames`."""
        return len(self.times)

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """See `OpenVideo.frames`."""
        for index in indices:
            try:
                self._image.seek(index)
                picture = np.asarray(self._image.convert("RGB"))
            except (OSError, EOFError, ValueError) as error:
                raise VideoError("decode_error", f"frame {index} of {len(self.times)}: {error}") from None
            yield TimedFrame(picture, float(self.times[index]))


@contextlib.contextmanager
def opened(file: int, _shown: Shown = PLAIN) -> Iterator[WebpVideo]:
    """`teacher_cache.clips.video.Opener`, by Pillow."""
    data = _read(file)
    seconds = [milliseconds / 1000 for milliseconds in _durations(data)]
    if len(seconds) < 2:
        raise VideoError("not_a_video", "a picture, not a video")
    try:
        with WebPImagePlugin.WebPImageFile(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoError("decode_error", f"its pictures are {image.width} × {image.height}")
            if image.n_frames != len(seconds):
                raise VideoError("not_a_video", f"it lists {len(seconds)} frames, and holds {image.n_frames}")
            times = np.array([0.0, *itertools.accumulate(seconds[:-1])])
            yield WebpVideo(image, times, len(seconds) / sum(seconds) if sum(seconds) else 0.0)
    except BAD_PICTURE as error:
        raise VideoError("not_a_video", str(error) or type(error).__name__) from None


def _read(file: int) -> bytes:
    size = os.fstat(file).st_size
    if size > _LARGEST or os.pread(file, 4, 0) != b"RIFF" or os.pread(file, 4, 8) != b"WEBP":
        raise VideoError("not_a_video", "")  # there is nothing to say of another format
    return os.pread(file, size, 0)


def _durations(data: bytes) -> list[int]:
    """Milliseconds that each frame of an animation is shown; none of a still picture."""
    durations, place = [], 12
    while place + _CHUNK_HEADER <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind == b"ANMF":
            durations.append(int.from_bytes(data[place + 20 : place + 23], "little"))
        place += _CHUNK_HEADER + size + size % 2
    return durations
