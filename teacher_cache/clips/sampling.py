"""Which frames of a video make a clip: pure functions of the recipe, the window and what the video holds.

``uniform`` gives a video one clip. ``fps`` and ``dense`` cut a *track* into windows: the video's frames at a rate, or all of
them, continued by their mirror image until the windows are full.
"""

from __future__ import annotations

import math

import numpy as np

from schemas.clip import VideoInfo, Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe


def windows(recipe: ClipRecipe, footage: VideoInfo) -> tuple[Window, ...]:
    """The windows of a video, each of ``recipe.frames`` positions, in order; together they cover its whole track.

    ``fps`` sets one window after another. ``dense`` begins one every half window, as L4P does (arXiv 2502.13078): the
    track is continued to a multiple of that stride, T = ceil(max(n, 16) / 8) * 8, and has (T - 16) / 8 + 1 windows.
    """
    return tuple(Window(start=start, stop=start + recipe.frames) for start in _starts(recipe, footage))


def _starts(recipe: ClipRecipe, footage: VideoInfo) -> range:
    assert recipe.sampling != "uniform"
    size = recipe.frames
    stride = size if recipe.sampling == "fps" else size // 2
    length = math.ceil(max(_taken(recipe, footage), size) / stride) * stride
    return range(0, length - size + 1, stride)


def frame_indices(recipe: ClipRecipe, footage: VideoInfo, window: Window | None) -> tuple[int, ...]:
    """Source frame number of each of the clip's frames, counted from 0.

    ``uniform`` (no window) spreads them over the whole video, first and last included: round(linspace(0, n - 1, 16)), the
    protocol of 4D-RGPT (arXiv 2512.17012). A video shorter than the clip there repeats frames and is not mirrored: the
    repeats are what the paper's student is shown, and the teacher must see the student's frames.

    ``fps`` and ``dense`` want consecutive frames, where a repeat would be a motion that stops; a track too short is
    mirrored, as L4P does. Raises `VideoError` where the window is not one of the video's.
    """
    if recipe.sampling == "uniform":
        return spread(recipe.frames, footage)
    if window is None:
        raise VideoError("not_probed", "the video opens now, and did not when it was planned; run again with --retry-failed")
    if window.start not in _starts(recipe, footage) or window.stop - window.start != recipe.frames:
        found = f"the video has {footage.frames} frames, and frames {window.start} to {window.stop} were planned"
        raise VideoError("decode_error", f"{found}; it changed since")
    taken = _taken(recipe, footage)
    return tuple(_source(recipe, footage, mirrored(p, taken)) for p in range(window.start, window.stop))


def spread(count: int, footage: VideoInfo) -> tuple[int, ...]:
    """So many frames over the whole video, as ``uniform`` sampling takes them."""
    return tuple(int(i) for i in np.round(np.linspace(0, footage.frames - 1, count)))


def mirrored(position: int, length: int) -> int:
    """Where a position of an endless track lies among its first ``length``: 0 … n-1, n-2 … 0, 1 … and so on.

    That is a clip to which its time-reversed copy without the first frame is appended again and again (L4P).
    """
    if length == 1:
        return 0
    index = position % (2 * (length - 1))
    return index if index < length else 2 * (length - 1) - index


def _step(recipe: ClipRecipe, footage: VideoInfo) -> float:
    """Source frames from one taken frame to the next. A video slower than the rate gives each of its frames once."""
    return max(1.0, footage.fps / recipe.fps) if recipe.sampling == "fps" and recipe.fps is not None else 1.0


def _source(recipe: ClipRecipe, footage: VideoInfo, taken: int) -> int:
    """Source frame nearest to when the ``taken``-th frame is due. Steps are at least 1, so none is taken twice."""
    return math.floor(taken * _step(recipe, footage) + 0.5)


def _taken(recipe: ClipRecipe, footage: VideoInfo) -> int:
    """How many frames the sampling takes of the video, before any mirroring."""
    count = math.ceil((footage.frames - 0.5) / _step(recipe, footage))  # the largest k has k * step + 0.5 < n
    while _source(recipe, footage, count - 1) >= footage.frames:  # the last digit of a quotient
        count -= 1
    return count
