"""A video's URI in; uint8 frames and their timestamps out, by the first decoder that opens it.

A damaged file may crash the calling process, so `teacher_cache.clips.decoder` runs these functions in a process of their own.
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
from teacher_cache.clips.preprocess import Frame, preprocess
from teacher_cache.clips.sampling import frame_indices
from teacher_cache.clips.video import Device, Opener, OpenVideo, TimedFrame
from teacher_cache.io.places import local_path
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
"""Decoders to try on each device, in order. If the first that opens a video cannot decode it, that is a decode_error; no other
is tried.

PyAV comes first because it identifies each decoded frame by its timestamp. decord counts frames, and silently returns wrong
ones: after seeks in MPEG-TS, fragmented MP4 and open groups of pictures, where an edit list hides frames, and after a damaged
frame. For an intact 8-bit H.264 video its frames are identical, bit for bit. It also uses FFmpeg, so it could at best guess
what PyAV finds damaged.
"""


@dataclass(frozen=True)
class DecodedClip:
    """A decoded clip, in the teacher's input size."""

    frames: Frame
    """uint8 (frame, size, size, RGB)."""
    clock: FrameClock
    decoder: str
    """Name and version of the decoder."""
    cpu_seconds: float
    """CPU time of the decoding process, all threads, since its previous answer. The first clip's includes opening the video."""


def probe(uri: str, device: Device = "cpu") -> VideoInfo:
    """A video's number of frames and frame rate. Raises `VideoError` with the reason."""
    with opened(uri, device) as video:
        return video.footage


def decode_clip(uri: str, recipe: ClipRecipe, window: Window | None = None) -> DecodedClip:
    """Sample, decode and preprocess one clip: that of ``window``, or, for ``uniform`` sampling, of the whole video.

    Raises `VideoError` with the reason.
    """
    began = time.process_time()
    with opened(uri) as video:
        (clip,) = clips_of(video, recipe, [window], began)
    if isinstance(clip, VideoError):
        raise clip
    return clip


def decode_frames(uri: str, frame_index: Sequence[int]) -> Frame:
    """The frames ``frame_index``, at the video's own size: uint8 (frame, height, width, RGB). Raises `VideoError`."""
    with opened(uri) as video:
        wanted = sorted(set(frame_index))
        frames = dict(zip(wanted, video.frames(wanted), strict=True))
    return np.stack([frames[index].picture for index in frame_index])


def clips_of(
    video: OpenVideo, recipe: ClipRecipe, windows: Sequence[Window | None], began: float
) -> Iterator[DecodedClip | VideoError]:
    """The clip or error of each window, in order. A frame in several windows is decoded once and kept, resized, until its last.

    ``began`` is `time.process_time` at the start of work on the video.
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
    """Frames resized to the teacher's size one by one, so that full-size frames never accumulate."""
    found = zip(indices, video.frames(indices), strict=True)
    return {index: TimedFrame(preprocess(frame.picture[None], recipe)[0], frame.seconds) for index, frame in found}


@contextlib.contextmanager
def _within_memory(reason: FailureReason) -> Iterator[None]:
    """Turn a `MemoryError` into a `VideoError`: decoder processes have a memory limit."""
    try:
        yield
    except MemoryError:
        raise VideoError(reason, "its pictures take more memory than a decoder may have") from None


def _clip(frames: Sequence[TimedFrame], indices: tuple[int, ...], decoder: str, cpu_seconds: float) -> DecodedClip:
    clock = FrameClock(frame_index=indices, timestamps_seconds=tuple(frame.seconds for frame in frames))
    return DecodedClip(np.stack([frame.picture for frame in frames]), clock, decoder, cpu_seconds)


@contextlib.contextmanager
def opened(uri: str, device: Device = "cpu") -> Iterator[OpenVideo]:
    """A video, opened by the first decoder that can. If none can, raises `VideoError`: the first reason, and all details."""
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
    """The video as a local file: its own path, or that of a temporary copy. Raises `VideoError`, `Unreachable`."""
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
