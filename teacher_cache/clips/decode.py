"""A video's descriptor in; uint8 frames and their timestamps out, by the first decoder that opens it.

A damaged file may crash the calling process, and a hostile one take it over, so only `teacher_cache.clips.decoder_program`
calls these functions, in a process that has little to lose.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from schemas.clip import FailureReason, FrameClock, Part, Segment, VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import av_video, decord_video
from teacher_cache.clips.preprocess import Frame, FrameSize, preprocess, resize
from teacher_cache.clips.sampling import Frames, frame_indices, spread, track
from teacher_cache.clips.video import OUT_OF_MEMORY, DecodedClip, DecodedFrames, Device, Opener, OpenVideo, TimedFrame

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


def frames_of(video: OpenVideo, wanted: Sequence[int] | int, size: FrameSize) -> DecodedFrames:
    """The frames of these numbers, in this order, or so many spread over the whole video. Raises `VideoError`."""
    indices = spread(wanted, video.footage.frames) if isinstance(wanted, int) else tuple(wanted)
    with _within_memory("decode_error"):
        found = _small_frames(video, partial(resize, size=size), sorted(set(indices)))
    pictures, clock = _put_together(found, indices)
    return DecodedFrames(pictures, clock, video.footage)


def clips_of(video: OpenVideo, recipe: ClipRecipe, parts: Sequence[Part], began: float) -> Iterator[DecodedClip | VideoError]:
    """The clip or error of each part, in order. A frame in several parts is decoded once and kept, resized, until its last.

    ``began`` is `time.process_time` at the start of work on the video.
    """
    tracks = functools.cache(partial(_track, recipe, video))
    planned = [_planned(recipe, tracks, part) for part in parts]
    last_use = {index: number for number, indices in enumerate(planned) for index in _found(indices)}
    kept: dict[int, TimedFrame] = {}

    def shrink(picture: Frame) -> Frame:
        small: Frame = preprocess(picture[None], recipe)[0]
        return small

    for number, indices in enumerate(planned):
        if isinstance(indices, VideoError):
            yield indices
            continue
        try:
            with _within_memory("decode_error"):
                kept |= _small_frames(video, shrink, sorted(set(indices) - kept.keys()))
            pictures, clock = _put_together(kept, indices)
        except VideoError as error:
            yield error
            continue
        now = time.process_time()
        yield DecodedClip(pictures, clock, video.decoder, now - began)
        began = now
        kept = {index: frame for index, frame in kept.items() if last_use[index] > number}


def footage_of(video: OpenVideo, segment: Segment | None, recipe: ClipRecipe | None) -> VideoInfo:
    """How much there is of a segment, or of the whole video if it is None, and how much of that the recipe's sampling takes.

    Raises `VideoError` if the segment is not in the video.
    """
    numbers = _numbers_of(video, segment)
    taken = recipe and len(_track(recipe, video, segment))
    return video.footage.model_copy(update={"frames": numbers.stop - numbers.start, "taken": taken})


_ROUNDED_SECONDS = 1.0
"""How far beyond its video's end a segment may end: lists often tell whole seconds."""


def _numbers_of(video: OpenVideo, segment: Segment | None) -> slice:
    """The numbers of a segment's frames, at least one. Raises `VideoError` if it is not in the video."""
    if segment is None:
        return slice(0, len(video.times))
    start, end = segment.start_seconds, math.inf if segment.end_seconds is None else segment.end_seconds
    ending = video.times[-1] + (1 / video.footage.fps if video.footage.fps else 0)
    if start >= ending or (end < math.inf and end > ending + _ROUNDED_SECONDS):
        until = "its end" if end == math.inf else f"{end:g} s"
        raise VideoError(
            "segment_outside", f"a segment from {start:g} s to {until} was listed, and the video ends at {ending:g} s"
        )
    first, stop = (bisect.bisect_left(video.times, seconds) for seconds in (start, end))
    return slice(max(first - 1, 0), max(first, 1)) if first >= stop else slice(first, stop)


def _track(recipe: ClipRecipe, video: OpenVideo, segment: Segment | None) -> Frames:
    numbers = _numbers_of(video, segment)
    frames: Frames = numbers.start + track(recipe, video.times[numbers])
    return frames


def _planned(recipe: ClipRecipe, tracks: Callable[[Segment | None], Frames], part: Part) -> tuple[int, ...] | VideoError:
    window = part if isinstance(part, Window) else None
    try:
        return frame_indices(recipe, tracks(part.segment if isinstance(part, Window) else part), window)
    except VideoError as error:
        return error


def _found(indices: tuple[int, ...] | VideoError) -> tuple[int, ...]:
    return () if isinstance(indices, VideoError) else indices


def _small_frames(video: OpenVideo, shrink: Callable[[Frame], Frame], indices: Sequence[int]) -> dict[int, TimedFrame]:
    """Frames resized one by one, so that full-size frames never accumulate."""
    found = zip(indices, video.frames(indices), strict=True)
    return {index: TimedFrame(shrink(frame.picture), frame.seconds) for index, frame in found}


@contextlib.contextmanager
def _within_memory(reason: FailureReason) -> Iterator[None]:
    """Turn a `MemoryError` into a `VideoError`: decoder processes have a memory limit."""
    try:
        yield
    except MemoryError:
        raise VideoError(reason, OUT_OF_MEMORY) from None


def _put_together(found: Mapping[int, TimedFrame], indices: tuple[int, ...]) -> tuple[Frame, FrameClock]:
    frames = [found[index] for index in indices]
    if len({frame.picture.shape for frame in frames}) > 1:
        raise VideoError("decode_error", "its pictures change their shape")
    seconds = [found[index].seconds for index in sorted(set(indices))]
    if seconds != sorted(seconds):
        raise VideoError("times_run_back", _backwards(seconds))
    clock = FrameClock(frame_index=indices, timestamps_seconds=tuple(frame.seconds for frame in frames))
    return np.stack([frame.picture for frame in frames]), clock


def _backwards(seconds: Sequence[float]) -> str:
    before, after = next((a, b) for a, b in pairwise(seconds) if b < a)
    return f"the frame shown at {after:.3f} s comes after the one shown at {before:.3f} s"


@contextlib.contextmanager
def opened(file: int, device: Device = "cpu") -> Iterator[OpenVideo]:
    """A video, opened by the first decoder that can. If none can, raises `VideoError`: the first reason, and all details."""
    if os.fstat(file).st_size == 0:
        raise VideoError("video_empty", "the file has zero bytes")
    with contextlib.ExitStack() as stack:
        yield _opened_by_the_first(file, OPENERS[device], stack)


def _opened_by_the_first(file: int, openers: Mapping[str, Opener], stack: contextlib.ExitStack) -> OpenVideo:
    refusals: dict[str, VideoError] = {}
    for name, opener in openers.items():
        try:
            with _within_memory("not_a_video"):
                return stack.enter_context(opener(file))
        except VideoError as error:
            refusals[name] = error
    detail = "; ".join(f"{name}: {error.detail}" for name, error in refusals.items())
    raise VideoError(next(iter(refusals.values())).reason, detail)
