"""From a video's uri to uint8 frames and their clock, by the first decoder that opens it.

Call these where a damaged file may take the process down with it; `teacher_cache.clips.decoder` runs them in a
process of their own.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from schemas.clip import FailureReason, FrameClock, VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import av_video, decord_video
from teacher_cache.clips.content import local_path
from teacher_cache.clips.preprocess import Frame, preprocess
from teacher_cache.clips.sampling import frame_indices
from teacher_cache.clips.video import Device, Opener, OpenVideo, TimedFrame
from teacher_cache.io.remote import fetch, filesystem
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

OPENERS: Mapping[Device, Mapping[str, Opener]] = {
    "cpu": {"PyAV": av_video.opened, "decord": decord_video.opened},
    "cuda": {
        "PyAV on cuda": partial(av_video.opened, device="cuda"),
        "PyAV": av_video.opened,
        "decord": decord_video.opened,
    },
}
"""The decoders tried on each device, in order. What the first opens but does not decode is decode_error, and no other's.

PyAV is first because it knows which frame it has decoded: by the frame's time, each time. decord counts, and so gives other
frames than were asked for, without a word: after its seeks in MPEG-TS, in fragmented mp4 and in open groups of pictures; where
an edit list hides frames; and all frames after one that is damaged. Its frames of a sound 8-bit H.264 video are the same to the
last bit. It is also FFmpeg within, so that what PyAV finds damaged it would at best guess.
"""


@dataclass(frozen=True)
class DecodedClip:
    """A clip as the teacher takes it."""

    frames: Frame
    """uint8 (frame, size, size, RGB)."""
    clock: FrameClock
    decoder: str
    """Name and version of what decoded it."""
    cpu_seconds: float
    """CPU time of all threads of the process from the answer before this one to this one; opening is in the first."""


def probe(uri: str, device: Device = "cpu") -> VideoInfo:
    """How much there is of a video. Raises `VideoError` with the reason."""
    with opened(uri, device) as video:
        return video.footage


def decode_clip(uri: str, recipe: ClipRecipe, window: Window | None = None) -> DecodedClip:
    """Sample, decode and preprocess one clip; a ``window`` says which, unless the sampling is ``uniform``.

    Raises `VideoError` with the reason.
    """
    began = time.process_time()
    with opened(uri) as video:
        (clip,) = clips_of(video, recipe, [window], began)
    if isinstance(clip, VideoError):
        raise clip
    return clip


def decode_frames(uri: str, frame_index: Sequence[int]) -> Frame:
    """The named frames at the video's own size: uint8 (frame, height, width, RGB). Raises `VideoError`."""
    with opened(uri) as video:
        wanted = sorted(set(frame_index))
        frames = dict(zip(wanted, video.frames(wanted), strict=True))
    return np.stack([frames[index].picture for index in frame_index])


def clips_of(
    video: OpenVideo, recipe: ClipRecipe, windows: Sequence[Window | None], began: float
) -> Iterator[DecodedClip | VideoError]:
    """One answer for each window, in order. A frame of several windows is decoded once, and kept small until its last one.

    ``began`` is `time.process_time` when work on the video began.
    """
    planned = [_planned(recipe, video.footage, window) for window in windows]
    last_use = {index: number for number, indices in enumerate(planned) for index in _found(indices)}
    kept: dict[int, TimedFrame] = {}
    for number, indices in enumerate(planned):
        if isinstance(indices, VideoError):
            yield indices
            continue
        try:
            with _within_memory("decode_error"):
                kept |= _small_frames(video, recipe, sorted(set(indices) - kept.keys()))
        except VideoError as error:
            yield error
            continue
        now = time.process_time()
        yield _clip([kept[index] for index in indices], indices, video.decoder, now - began)
        began = now
        kept = {index: frame for index, frame in kept.items() if last_use[index] > number}


def _planned(recipe: ClipRecipe, footage: VideoInfo, window: Window | None) -> tuple[int, ...] | VideoError:
    try:
        return frame_indices(recipe, footage, window)
    except VideoError as error:
        return error


def _found(indices: tuple[int, ...] | VideoError) -> tuple[int, ...]:
    return () if isinstance(indices, VideoError) else indices


def _small_frames(video: OpenVideo, recipe: ClipRecipe, indices: Sequence[int]) -> dict[int, TimedFrame]:
    """Frames brought to the teacher's size one by one: full-size frames never pile up."""
    found = zip(indices, video.frames(indices), strict=True)
    return {index: TimedFrame(preprocess(frame.picture[None], recipe)[0], frame.seconds) for index, frame in found}


@contextlib.contextmanager
def _within_memory(reason: FailureReason) -> Iterator[None]:
    """Turns want of memory, which is bounded where videos are decoded, into a `VideoError`."""
    try:
        yield
    except MemoryError:
        raise VideoError(reason, "its pictures take more memory than a decoder may have") from None


def _clip(frames: Sequence[TimedFrame], indices: tuple[int, ...], decoder: str, cpu_seconds: float) -> DecodedClip:
    clock = FrameClock(frame_index=indices, timestamps_seconds=tuple(frame.seconds for frame in frames))
    return DecodedClip(np.stack([frame.picture for frame in frames]), clock, decoder, cpu_seconds)


@contextlib.contextmanager
def opened(uri: str, device: Device = "cpu") -> Iterator[OpenVideo]:
    """A video, opened by the first decoder that can.

    Raises `VideoError`: where none can, with the first one's reason and what each said.
    """
    with on_disk(uri) as path, contextlib.ExitStack() as stack:
        if path.stat().st_size == 0:
            raise VideoError("video_empty", "the file has zero bytes")
        yield _opened_by_the_first(path, OPENERS[device], stack)


def _opened_by_the_first(path: Path, openers: Mapping[str, Opener], stack: contextlib.ExitStack) -> OpenVideo:
    refusals: dict[str, VideoError] = {}
    for name, opener in openers.items():
        try:
            with _within_memory("not_a_video"):
                return stack.enter_context(opener(path))
        except VideoError as error:
            refusals[name] = error
    detail = "; ".join(f"{name}: {error.detail}" for name, error in refusals.items())
    raise VideoError(next(iter(refusals.values())).reason, detail)


@contextlib.contextmanager
def on_disk(uri: str) -> Iterator[Path]:
    """The video as a file on disk: where it lies, or a copy for as long as it is read. Raises `VideoError`, `Unreachable`."""
    local = local_path(uri)
    if local is not None:
        if not local.exists():
            raise VideoError("video_missing", f"there is no file {local}")
        if not local.is_file():
            raise VideoError("not_a_video", f"{local} is not a file")
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="teacher-cache-") as folder:
        copy = Path(folder) / "video"
        with counting(VIDEO_REQUESTS, filesystem(uri)[0], "get"):
            is_there = fetch(uri, copy)
        if not is_there:
            raise VideoError("video_missing", f"there is no object {uri}")
        yield copy
