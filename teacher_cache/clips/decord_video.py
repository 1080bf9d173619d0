"""A file in, an opened video out, by decord: tried if PyAV opens its container, and cannot read it.

decord counts frames, and miscounts after seeks, where an edit list hides frames, and where timestamps are missing. So it is
used only where it cannot miscount: for frames in ascending order, of a video whose only key frame is the first one.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import av.error
import decord
import numpy as np
from numpy.typing import NDArray

from schemas.clip import VideoInfo
from schemas.errors import VideoError
from teacher_cache.clips.packets import MAX_PIXELS, holds_pictures, open_container
from teacher_cache.clips.preprocess import Frame
from teacher_cache.clips.video import PLAIN, Shown, TimedFrame

_VARYING = re.compile(r"\S+\.cc:\d+: |\(-?\w+ vs\. -?\w+\)|(?<=Error reading) .*")

_LARGEST = 1 << 28
"""Bytes of the largest file that decord is given."""
DECODER = f"decord {decord.__version__}"


class DecordVideo:
    """`teacher_cache.clips.video.OpenVideo`, by decord. Its timestamps begin at 0 in every video."""

    decoder = DECODER
    missing = 0
    """decord does not tell."""

    def __init__(self, reader: Any, times: NDArray[np.float64]) -> None:
        self._reader, self.times = reader, times
        fps = float(reader.get_avg_fps())
        self.footage = VideoInfo(frames=len(reader), fps=fps if math.isfinite(fps) and fps > 0 else 0.0)

    def whole_frames(self, _least: int) -> int:
        """See `OpenVideo.whole_frames`. All of them: decord conceals what it could not decode."""
        return len(self.times)

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """See `OpenVideo.frames`. No repeats: decord returns the following frame if one is requested twice in a row."""
        for index in indices:
            try:
                picture = _packed_rows(self._reader[index].asnumpy())
            except (decord.DECORDError, IndexError) as error:
                raise VideoError("decode_error", _message(error)) from None
            yield TimedFrame(picture, float(self.times[index]))


@contextlib.contextmanager
def opened(file: int, _shown: Shown = PLAIN) -> Iterator[DecordVideo]:
    """`teacher_cache.clips.video.Opener`, by decord."""
    _refuse_what_decord_would_not(file)
    try:
        with os.fdopen(os.dup(file), "rb") as whole:
            whole.seek(0)
            reader = decord.VideoReader(whole, num_threads=1)  # decord reads all of it
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError("not_a_video", _message(error)) from None
    except AssertionError:  # decord's way to report a video without frames
        raise VideoError("no_frames", "the video holds no frame") from None
    times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    is_sound = times[0] == 0 and np.isfinite(times).all() and (np.diff(times) > 0).all()
    if not is_sound or list(reader.get_key_indices()) != [0]:
        raise VideoError("not_a_video", "its frames cannot be told apart")
    yield DecordVideo(reader, times)


def _refuse_what_decord_would_not(file: int) -> None:
    """Decord itself follows playlists, and decodes pictures of any size. Raises `VideoError`."""
    size = os.fstat(file).st_size
    if size > _LARGEST:
        raise VideoError("not_a_video", f"not tried: decord would hold all of its {size} bytes in memory")
    try:
        with open_container(file) as container:
            if holds_pictures(container):
                raise VideoError("not_a_video", "not tried: made for pictures")
            if any(
                v.codec_context and v.codec_context.width * v.codec_context.height > MAX_PIXELS for v in container.streams.video
            ):
                raise VideoError("decode_error", "not tried: its pictures are too large")
    except av.error.FFmpegError:
        raise VideoError("not_a_video", "not tried: its container is unknown") from None


def _packed_rows(frame: np.ndarray[Any, Any]) -> Frame:
    """The frame as (height, width, RGB), without padding.

    decord computes the number of channels as FFmpeg's bytes per row over the width. If the padded row is four thirds of the
    packed one (a width of 96 or 144), it returns a frame of "4 channels", and its own batch functions fail.
    """
    height, width, _ = frame.shape
    return np.ascontiguousarray(frame.reshape(height, -1)[:, : width * 3].reshape(height, width, 3))


def _message(error: Exception) -> str:
    """The library's message, without source locations and whatever differs between runs: paths of copies, addresses."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0].rpartition("] ")[2]
    return _VARYING.sub("", said).strip()
