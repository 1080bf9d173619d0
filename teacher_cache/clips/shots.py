"""A video's frames in; where its shots begin, out, by PySceneDetect's ``ContentDetector``.

It loads OpenCV, so only a decoder that is to find shots imports this, before it goes into its box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode, Timecode
from scenedetect.detectors import ContentDetector

from schemas.clip import Shot
from schemas.errors import VideoError
from schemas.recipe import ShotRecipe
from teacher_cache.clips.preprocess import Frame, FrameSize, resize
from teacher_cache.clips.video import OpenVideo

MOST_SHOTS = 2**13
"""Shots of a segment or video, at most."""
_SEEN = FrameSize(256, "own")
"""Wide enough for PySceneDetect, which itself shrinks to at least that; the smaller, the less noise counts."""
_TICK = Fraction(1, 1_000_000)

cv2.setNumThreads(1)  # a decoder has one core, and its box allows no process that waits for work


def shots_of(video: OpenVideo, numbers: slice, begins_at: float, recipe: ShotRecipe) -> tuple[Shot, ...]:
    """The shots of some of a video's frames, by their numbers, in order: each begins where the one before ends.

    ``begins_at``: seconds at which the first begins; the last has no end. Frames that do not decode are left out. Raises
    `VideoError` if none does.
    """
    cuts = [*_cuts(video, numbers, recipe), numbers.stop]
    if len(cuts) > MOST_SHOTS:
        raise VideoError("decode_error", f"more than {MOST_SHOTS} shots were found; raise clips.shot_threshold in a new store")
    starts = [numbers.start, *cuts[:-1]]
    seconds = [begins_at, *(float(video.times[cut]) for cut in cuts[:-1])]
    ends = [*seconds[1:], None]
    return tuple(
        Shot(start_seconds=begin, end_seconds=end, frames=stop - start)
        for start, stop, begin, end in zip(starts, cuts, seconds, ends, strict=True)
    )


def _cuts(video: OpenVideo, numbers: slice, recipe: ShotRecipe) -> Iterator[int]:
    """The numbers of the frames with which a shot begins, without the first."""
    detector = ContentDetector(threshold=recipe.threshold, min_scene_len=recipe.shortest_seconds)
    ticks = np.round((video.times - video.times[numbers.start]) / float(_TICK)).astype(np.int64)
    for number, picture in _decoded(video, range(numbers.start, numbers.stop)):
        moment = FrameTimecode(Timecode(pts=int(ticks[number]), time_base=_TICK), fps=video.footage.fps or 1.0)
        for cut in detector.process_frame(moment, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            if (found := _number(ticks, cut.pts, numbers)) > numbers.start:
                yield found


def _number(ticks: NDArray[np.int64], pts: int, numbers: slice) -> int:
    found: int = numbers.start + int(np.searchsorted(ticks[numbers], pts))
    return found


def _decoded(video: OpenVideo, numbers: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """The frames that decode, with their numbers."""
    at, error = 0, None
    is_any = False
    while at < len(numbers):
        try:
            for number, frame in zip(numbers[at:], video.frames(numbers[at:]), strict=True):
                yield number, resize(frame.picture, _SEEN)
                at, is_any = at + 1, True
        except VideoError as found:
            if found.reason != "decode_error":
                raise
            at, error = at + 1, found
    if error is not None and not is_any:
        raise error
