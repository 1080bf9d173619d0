"""From a video's uri to uint8 frames and their clock, with decord.

Frames come as they are meant to be seen: decord applies a quarter turn in the video's metadata (checked by tests).

Call these where a damaged file may take the process down with it; `teacher_cache.clips.decoder` runs them in a
process of their own.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import decord
import numpy as np

from schemas.clip import Footage, FrameClock, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.content import local_path
from teacher_cache.clips.preprocess import Frame, preprocess
from teacher_cache.clips.sampling import frame_indices
from teacher_cache.remote import fetch

DECODER = f"decord {decord.__version__}"


@dataclass(frozen=True)
class DecodedClip:
    """A clip as the teacher takes it."""

    frames: Frame
    """uint8 (frame, size, size, RGB)."""
    clock: FrameClock
    decoder: str
    """Name and version of what decoded it."""
    cpu_seconds: float = 0.0


def probe(uri: str) -> Footage:
    """How much there is of a video. Raises `VideoError` with the reason."""
    with _opened(uri) as reader:
        return _footage(reader)


def decode_clip(uri: str, recipe: ClipRecipe, window: Window | None = None) -> DecodedClip:
    """Sample, decode and preprocess one clip; a ``window`` says which, unless the sampling is ``uniform``.

    Raises `VideoError` with the reason.
    """
    with _opened(uri) as reader:
        indices = frame_indices(recipe, _footage(reader), window)
        frames = _frames(reader, indices)
        seconds = tuple(float(reader.get_frame_timestamp(i)[0]) for i in indices)
    return DecodedClip(preprocess(frames, recipe), FrameClock(frame_index=indices, timestamps_seconds=seconds), DECODER)


def decode_frames(uri: str, frame_index: Sequence[int]) -> Frame:
    """The named frames at the video's own size: uint8 (frame, height, width, RGB). Raises `VideoError`."""
    with _opened(uri) as reader:
        return _frames(reader, frame_index)


def _footage(reader: Any) -> Footage:
    fps = float(reader.get_avg_fps())
    return Footage(frames=len(reader), fps=fps if math.isfinite(fps) and fps > 0 else 0.0)


def _frames(reader: Any, indices: Sequence[int]) -> Frame:
    """Each wanted frame is read once, in order: decord gives the following frame when one is asked for twice in a row."""
    try:
        frames = {index: _packed_rows(reader[index].asnumpy()) for index in sorted(set(indices))}
    except (decord.DECORDError, IndexError) as error:
        raise VideoError("decode_error", _message(error)) from None
    return np.stack([frames[index] for index in indices])


def _packed_rows(frame: np.ndarray[Any, Any]) -> Frame:
    """(height, width, RGB) without padding.

    decord takes FFmpeg's bytes per row over the width for the number of channels. Where the padded row is just four
    thirds of the packed one (a width of 96 or 144) it so gives a frame of "4 channels", and its own batches fail.
    """
    height, width, _ = frame.shape
    return np.ascontiguousarray(frame.reshape(height, -1)[:, : width * 3].reshape(height, width, 3))


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[Any]:
    with on_disk(uri) as path:
        if path.stat().st_size == 0:
            raise VideoError("video_empty", "the file has zero bytes")
        try:
            reader = decord.VideoReader(str(path), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise VideoError("not_a_video", _message(error)) from None
        except AssertionError:  # how decord says that it counted none
            raise VideoError("no_frames", "the video holds no frame") from None
        yield reader


@contextlib.contextmanager
def on_disk(uri: str) -> Iterator[Path]:
    """The video as a file on disk: where it lies, or a copy for as long as it is read. Raises `VideoError`, `Unreachable`."""
    local = local_path(uri)
    if local is not None:
        if not local.is_file():
            raise VideoError("video_missing", f"there is no file {local}")
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="teacher-cache-") as folder:
        copy = Path(folder) / "video"
        if not fetch(uri, copy):
            raise VideoError("video_missing", f"there is no object {uri}")
        yield copy


def _message(error: Exception) -> str:
    """The errors of decord hold a source location and a stack; the reason is the rest of the first line."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return first.rpartition("] ")[2] or first
