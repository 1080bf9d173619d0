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
from typing import NamedTuple

import numpy as np

from schemas.clip import SPREAD, FailureReason, FrameClock, Part, Segment, Shot, VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe, ShotRecipe
from teacher_cache.clips import av_video, decord_video, picture_video, webp_video
from teacher_cache.clips.preprocess import Frame, FrameSize, preprocess, resize
from teacher_cache.clips.sampling import Frames, frame_indices, track
from teacher_cache.clips.video import (
    OUT_OF_MEMORY,
    PLAIN,
    DecodedClip,
    DecodedFrames,
    Device,
    NotHeld,
    Opener,
    OpenVideo,
    Ranges,
    Shown,
    TimedFrame,
)

_IN_SOFTWARE: Mapping[str, Opener] = {
    "PyAV": av_video.opened, "decord": decord_video.opened, "Pillow": webp_video.opened, "pictures": picture_video.opened,
}  # fmt: skip
OPENERS: Mapping[Device, Mapping[str, Opener]] = {
    "cpu": _IN_SOFTWARE,
    "cuda": {"PyAV on cuda": partial(av_video.opened, device="cuda"), **_IN_SOFTWARE},
}
"""Decoders to try on each device, in order. If the first that opens a video cannot decode it, that is a decode_error; no other
is tried.

PyAV comes first because it identifies each decoded frame by its timestamp. decord counts frames, and silently returns wrong
ones: after seeks in MPEG-TS, fragmented MP4 and open groups of pictures, where an edit list hides frames, and after a damaged
frame. For an intact 8-bit H.264 video its frames are identical, bit for bit. It also uses FFmpeg, so it could at best guess
what PyAV finds damaged.
"""


def frames_of(video: OpenVideo, wanted: Sequence[int] | int, size: FrameSize, segment: Segment | None = None) -> DecodedFrames:
    """The frames of these numbers, in this order, or so many spread as a ``uniform`` clip's, of a segment if one is given.

    Raises `VideoError`.
    """
    shrink = partial(resize, size=size)
    if isinstance(wanted, int):
        recipe = ClipRecipe(frames=wanted, sampling="uniform", preprocessing="l4p", size=1, student_size=None)
        (found,) = _Clips(video, recipe, [segment], shrink)
        if isinstance(found, VideoError):
            raise found
        pictures, clock = found
    else:
        indices = tuple(wanted)
        pictures, clock = _put_together(_small_frames(video, shrink, sorted(set(indices))), _Planned(indices))
    return DecodedFrames(pictures, clock, video.footage)


def clips_of(
    video: OpenVideo, recipe: ClipRecipe, parts: Sequence[Part], began: float, student_size: int | None = None
) -> Iterator[DecodedClip | VideoError]:
    """The clip or error of each part, in order. A frame in several parts is decoded once and kept, resized, until its last.

    ``began`` is `time.process_time` at the start of work on the video.
    """
    shapes = [(size, size, 3) for size in (recipe.size, student_size) if size is not None]

    def shrink(picture: Frame) -> Frame:
        """The picture in both sizes, one after the other."""
        small = [preprocess(picture[None], recipe)[0]]
        if student_size is not None:
            small.append(resize(picture, FrameSize(student_size)))
        return np.concatenate([pixels.ravel() for pixels in small])

    for found in _Clips(video, recipe, parts, shrink):
        if isinstance(found, VideoError):
            yield found
            continue
        pictures, clock = found
        apart = np.split(pictures, [math.prod(shapes[0])], axis=1)
        frames, *student = [pixels.reshape(-1, *shape) for pixels, shape in zip(apart, shapes, strict=False)]
        now = time.process_time()
        yield DecodedClip(frames, clock, video.decoder, now - began, *student)
        began = now


def ranges_of(video: OpenVideo, recipe: ClipRecipe, parts: Sequence[Part]) -> Ranges:
    """The bytes of the file that decoding the parts' clips takes. Raises `NotHeld` where that is not known beforehand."""
    hold_to(video, ())
    assert isinstance(video, av_video.AvVideo)
    return video.ranges(_Clips(video, recipe, parts, lambda picture: picture).indices)


def hold_to(video: OpenVideo, held: Ranges) -> None:
    """Decode by these bytes of the file alone: others raise `NotHeld`, as a decoder does that does not say what it reads."""
    if not isinstance(video, av_video.AvVideo):
        raise NotHeld
    video.held = held


class _Planned(NamedTuple):
    """The frames of a part's clip."""

    indices: tuple[int, ...]
    tail: int = 0
    """Frames at the part's end that do not decode."""


class _Clips:
    """The pictures and the clock, or the error, of each part of a video, in order."""

    def __init__(self, video: OpenVideo, recipe: ClipRecipe, parts: Sequence[Part], shrink: Callable[[Frame], Frame]) -> None:
        self._video, self._recipe, self._parts, self._shrink = video, recipe, parts, shrink
        self._kept: dict[int, TimedFrame] = {}
        self._plan(0, None)

    def _plan(self, first: int, whole: int | None) -> None:
        """Plan the parts from the ``first`` on; ``whole`` is the number of frames up to the last that decodes, once known."""
        self._whole = whole
        tracks = functools.cache(partial(_track, self._recipe, self._video, whole=whole))
        self._planned: dict[int, _Planned | VideoError] = {
            number: _planned(self._recipe, tracks, part, partial(self._probe, part))
            for number, part in enumerate(self._parts)
            if number >= first
        }
        self._last_use = {
            index: number for number, plan in self._planned.items() if isinstance(plan, _Planned) for index in plan.indices
        }

    @property
    def indices(self) -> list[int]:
        """The frames of all clips, ascending."""
        return sorted(self._last_use)

    def _probe(self, part: Part) -> VideoInfo:
        assert not isinstance(part, Window)
        return footage_of(self._video, part, self._recipe)

    def __iter__(self) -> Iterator[tuple[Frame, FrameClock] | VideoError]:
        for number in range(len(self._parts)):
            try:
                yield self._clip(number)
            except VideoError as error:
                yield error
            self._kept = {index: frame for index, frame in self._kept.items() if self._last_use.get(index, -1) > number}

    def _clip(self, number: int) -> tuple[Frame, FrameClock]:
        try:
            return self._decoded(self._planned[number])
        except VideoError as error:
            is_damage = error.reason == "decode_error" and error.detail != OUT_OF_MEMORY
            if not is_damage or self._whole is not None:
                raise
            # Once for all the video's parts, since it is decoded again to find where its damage begins.
            least = len(self._video.times) - int(len(self._video.times) * self._recipe.max_undecodable_tail_share)
            with _within_memory("decode_error"):
                whole = self._video.whole_frames(least)
            self._plan(number, whole)
            if not whole:
                raise  # nothing decodes, and the error says more than that
        return self._decoded(self._planned[number])

    def _decoded(self, plan: _Planned | VideoError) -> tuple[Frame, FrameClock]:
        if isinstance(plan, VideoError):
            raise plan
        self._kept |= _small_frames(self._video, self._shrink, sorted(set(plan.indices) - self._kept.keys()))
        return _put_together(self._kept, plan)


def footage_of(video: OpenVideo, segment: Segment | None, recipe: ClipRecipe | None) -> VideoInfo:
    """How much there is of a segment, or of the whole video if it is None, and how much of that the recipe's sampling takes.

    Raises `VideoError` if the segment is not in the video.
    """
    numbers = _numbers_of(video, segment)
    taken = recipe and len(_track(recipe, video, segment).frames)
    shots = _shots(video, segment, numbers, recipe.shots) if recipe and recipe.shots else ()
    return video.footage.model_copy(update={"frames": numbers.stop - numbers.start, "taken": taken, "shots": shots})


def _shots(video: OpenVideo, segment: Segment | None, numbers: slice, recipe: ShotRecipe) -> tuple[Shot, ...]:
    from teacher_cache.clips.shots import shots_of  # noqa: PLC0415  # of an extra: OpenCV

    found = shots_of(video, numbers, segment.start_seconds if segment else 0.0, recipe)
    return (*found[:-1], found[-1].model_copy(update={"end_seconds": segment and segment.end_seconds}))


_ROUNDED_SECONDS = 1.0
"""How far beyond its video's end a segment may end: lists often tell whole seconds."""


def _numbers_of(video: OpenVideo, segment: Segment | None) -> slice:
    """The numbers of a segment's frames, at least one. Raises `VideoError` if it is not in the video."""
    if segment is None:
        return slice(0, len(video.times))
    start, end = segment.start_seconds, math.inf if segment.end_seconds is None else segment.end_seconds
    ending = video.times[-1] + (1 / video.footage.fps if video.footage.fps else 0)
    beginning = float(video.times[0])
    if start >= ending or end <= beginning or (end < math.inf and end > ending + _ROUNDED_SECONDS):
        until = "its end" if end == math.inf else f"{end:g} s"
        lies = f"begins at {beginning:g} s and ends" if beginning else "ends"
        raise VideoError(
            "segment_outside", f"a segment from {start:g} s to {until} was listed, and the video {lies} at {ending:g} s"
        )
    first, stop = (bisect.bisect_left(video.times, seconds) for seconds in (start, end))
    return slice(max(first - 1, 0), max(first, 1)) if first >= stop else slice(first, stop)


class _Track(NamedTuple):
    frames: Frames
    """Numbers of the frames that the sampling takes of a part, without those that do not decode at its end."""
    planned: int
    """How many they were with these."""
    tail: int
    """Frames at the part's end that were left out, since they do not decode."""
    refusal: VideoError | None
    """Why no clip that would have shown some of these is made."""


def _track(recipe: ClipRecipe, video: OpenVideo, segment: Segment | None, whole: int | None = None) -> _Track:
    """What a sampling takes of a part, of the first ``whole`` frames; None: of all that the file holds."""
    numbers = _numbers_of(video, segment)
    stop = numbers.stop if whole is None else min(numbers.stop, whole)
    missing = _missing(video, segment) if numbers.stop == len(video.times) else 0
    frames, tail = numbers.stop - numbers.start + missing, numbers.stop - stop + missing
    refusal = None
    if stop <= numbers.start or tail > recipe.max_undecodable_tail_share * frames:
        refusal = VideoError(
            "decode_error",
            f"at least the last {tail} of its {frames} frames do not decode, and clips.max_undecodable_tail_share is "
            f"{recipe.max_undecodable_tail_share:g}",
        )
    taken = numbers.start + track(recipe, video.times[numbers])
    return _Track(taken[taken < stop], len(taken), tail, refusal)


def _missing(video: OpenVideo, segment: Segment | None) -> int:
    """How many frames of a segment that goes to the end of a file are missing, where that was cut short."""
    if segment is None or segment.end_seconds is None or not video.footage.fps:
        return video.missing
    after_last = (segment.end_seconds - float(video.times[-1])) * video.footage.fps - 1
    return min(video.missing, max(0, round(after_last)))


def _planned(
    recipe: ClipRecipe, tracks: Callable[[Segment | None], _Track], part: Part, probe: Callable[[], object]
) -> _Planned | VideoError:
    window = part if isinstance(part, Window) else None
    try:
        if recipe.shots and window is None:  # says why no shots were found when it was planned, if that is so still
            probe()
        found = tracks(part.segment if isinstance(part, Window) else part)
        shows_end = window is None or recipe.sampling in SPREAD or window.stop > min(len(found.frames), found.planned - 1)
        if shows_end and found.refusal:
            raise found.refusal
        indices = frame_indices(recipe, found.frames, window, found.planned)
        return _Planned(indices, found.tail if shows_end else 0)
    except VideoError as error:
        return error


def _small_frames(video: OpenVideo, shrink: Callable[[Frame], Frame], indices: Sequence[int]) -> dict[int, TimedFrame]:
    """Frames resized one by one, so that full-size frames never accumulate."""
    with _within_memory("decode_error"):
        found = zip(indices, video.frames(indices), strict=True)
        return {index: TimedFrame(shrink(frame.picture), frame.seconds) for index, frame in found}


@contextlib.contextmanager
def _within_memory(reason: FailureReason) -> Iterator[None]:
    """Turn a `MemoryError` into a `VideoError`: decoder processes have a memory limit."""
    try:
        yield
    except MemoryError:
        raise VideoError(reason, OUT_OF_MEMORY) from None


def _put_together(found: Mapping[int, TimedFrame], plan: _Planned) -> tuple[Frame, FrameClock]:
    indices = plan.indices
    frames = [found[index] for index in indices]
    if len({frame.picture.shape for frame in frames}) > 1:
        raise VideoError("decode_error", "its pictures change their shape")
    seconds = [found[index].seconds for index in sorted(set(indices))]
    if seconds != sorted(seconds):
        raise VideoError("times_run_back", _backwards(seconds))
    clock = FrameClock(
        frame_index=indices,
        timestamps_seconds=tuple(frame.seconds for frame in frames),
        undecodable_tail_frames=plan.tail,
    )
    return np.stack([frame.picture for frame in frames]), clock


def _backwards(seconds: Sequence[float]) -> str:
    before, after = next((a, b) for a, b in pairwise(seconds) if b < a)
    return f"the frame shown at {after:.3f} s comes after the one shown at {before:.3f} s"


@contextlib.contextmanager
def opened(file: int, device: Device = "cpu", shown: Shown = PLAIN) -> Iterator[OpenVideo]:
    """A video, opened by the first decoder that can. If none can, raises `VideoError`: the first reason, and all details."""
    if os.fstat(file).st_size == 0:
        raise VideoError("video_empty", "the file has zero bytes")
    with contextlib.ExitStack() as stack:
        yield _opened_by_the_first(file, shown, OPENERS[device], stack)


def _opened_by_the_first(file: int, shown: Shown, openers: Mapping[str, Opener], stack: contextlib.ExitStack) -> OpenVideo:
    refusals: dict[str, VideoError] = {}
    for name, opener in openers.items():
        try:
            with _within_memory("not_a_video"):
                return stack.enter_context(opener(file, shown))
        except VideoError as error:
            refusals[name] = error
    detail = "; ".join(f"{name}: {error.detail}" for name, error in refusals.items() if error.detail)
    raise VideoError(next(iter(refusals.values())).reason, detail)
